from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence

import pytest

from pynomaly_tasks.errors import BrokerUnavailable, PynomalyError
from pynomaly_tasks.messaging.backends import coalescing
from pynomaly_tasks.messaging.backends.coalescing import Coalescer, Coalescers


class Server:
    """Doubles numbers, slowly; refuses thirteen."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []
        self.gate = asyncio.Event()

    async def double(self, key: Hashable, numbers: Sequence[int]) -> list[int]:
        self.trips.append(list(numbers))
        await self.gate.wait()
        if 13 in numbers:
            raise BrokerUnavailable("thirteen")
        return [2 * number for number in numbers]


def _together(server: Server, calls: list[tuple[str, list[int]]]) -> list[list[int] | BaseException]:
    async def main() -> list[list[int] | BaseException]:
        server.gate = asyncio.Event()
        coalescer: Coalescer[int, int] = Coalescer(server.double, lambda _: 1)
        tasks = [asyncio.create_task(coalescer.call(key, numbers)) for key, numbers in calls]
        await asyncio.sleep(0)
        server.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(main())


def test_what_comes_meanwhile_goes_together_and_each_gets_its_own_answers() -> None:
    server = Server()
    answers = _together(server, [("k", [1]), ("k", [2, 3]), ("k", []), ("k", [4])])

    assert answers == [[2], [4, 6], [], [8]]
    assert server.trips == [[1], [2, 3, 4]]


def test_keys_are_not_mixed_and_order_is_kept() -> None:
    server = Server()
    _together(server, [("a", [1]), ("a", [2]), ("b", [3]), ("a", [4])])

    assert server.trips == [[1], [2], [3], [4]]


def test_trip_has_a_limit_and_a_larger_call_goes_alone() -> None:
    server = Server()
    _together(server, [("k", [0]), *(("k", [n]) for n in range(250)), ("k", list(range(300)))])

    assert [len(trip) for trip in server.trips] == [1, 200, 50, 300]


def test_error_reaches_those_of_its_trip_only() -> None:
    server = Server()
    first, second, third, *rest = _together(
        server, [("k", [13]), ("k", [1]), ("k", [2]), ("l", [13]), ("l", [3])]
    )

    assert isinstance(first, BrokerUnavailable)
    assert (second, third) == ([2], [4])
    assert all(isinstance(each, BrokerUnavailable) for each in rest)
    assert rest[0] is not rest[1]


def test_caller_that_goes_away_stops_nobody() -> None:
    async def main() -> None:
        server = Server()
        coalescer: Coalescer[int, int] = Coalescer(server.double, lambda _: 1)
        tasks = [asyncio.create_task(coalescer.call("k", [n])) for n in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.sleep(0)
        server.gate.set()

        assert [await tasks[n] for n in (1, 3, 4)] == [[2], [6], [8]]
        assert server.trips == [[0], [1, 3, 4]]
        for n in (0, 2):
            with pytest.raises(asyncio.CancelledError):
                await tasks[n]
        assert await coalescer.call("k", [9]) == [18]

    asyncio.run(main())


class Servers:
    """Each doubles numbers of its own ten, when its gate is open; of thirteen alone it says that it cannot."""

    def __init__(self) -> None:
        self.trips: list[tuple[int, list[int]]] = []
        self.gates = [asyncio.Event() for _ in range(10)]
        self.coalescers: Coalescers[int, int, int] = Coalescers(self.double, lambda number: number // 10)

    async def double(self, tens: int, numbers: Sequence[int]) -> list[int | PynomalyError]:
        self.trips.append((tens, list(numbers)))
        await self.gates[tens].wait()
        if 99 in numbers:
            raise BrokerUnavailable("ninety-nine")
        return [BrokerUnavailable("thirteen") if n == 13 else 2 * n for n in numbers]


def test_keys_that_go_apart_do_not_wait_for_one_another() -> None:
    async def main() -> None:
        servers = Servers()
        slow = [asyncio.create_task(servers.coalescers.call([n])) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        servers.gates[1].set()

        assert await servers.coalescers.call([11]) == [22]
        both = asyncio.create_task(servers.coalescers.call([12, 4, 11]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        servers.gates[0].set()
        assert await both == [24, 8, 22]
        assert [await each for each in slow] == [[2], [4], [6]]
        assert servers.trips == [(0, [1]), (1, [11]), (1, [12, 11]), (0, [2, 3, 4])]
        assert await servers.coalescers.call([]) == []

    asyncio.run(main())


def test_error_of_one_thing_is_raised_to_its_call_alone() -> None:
    async def main() -> None:
        servers = Servers()
        for gate in servers.gates:
            gate.set()
        calls = [[10], [11, 13], [13], [12], [90], [1, 99, 13]]
        tasks = [asyncio.create_task(servers.coalescers.call(numbers)) for numbers in calls]
        answers = await asyncio.gather(*tasks, return_exceptions=True)

        assert [str(answer) for answer in answers] == [
            "[20]", "thirteen", "thirteen", "[24]", "[180]", "ninety-nine",
        ]  # fmt: skip
        assert answers[1] is not answers[2]

    asyncio.run(main())


def test_flush_waits_for_all_that_was_called_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        servers = Servers()
        await servers.coalescers.flush()
        tasks = [asyncio.create_task(servers.coalescers.call([n])) for n in (1, 2, 11, 12)]
        await asyncio.sleep(0)
        monkeypatch.setattr(coalescing, "CLOSE_S", 0.05)
        await servers.coalescers.flush()
        assert not any(task.done() for task in tasks)
        monkeypatch.setattr(coalescing, "CLOSE_S", 5.0)
        for gate in servers.gates:
            gate.set()
        await servers.coalescers.flush()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [task.result() for task in tasks] == [[2], [4], [22], [24]]

    asyncio.run(main())

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence

import pytest

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.coalescing import Coalescer


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

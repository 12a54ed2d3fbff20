"""The Lua steps against a model: whatever happens in whatever order, no message is lost or doubled."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.transport import scripts
from pynomaly_tasks.transport.ledger import LAST, MARK, NEXT

QUEUES = ("a", "b")
PRIORITIES = (0, 3)
UNACKED, INDEX, PULSE = "unacked", "unacked_index", "unacked_pulse"
LEASE_S = 1_000


def list_of(queue: str, priority: int) -> str:
    return f"{queue}\x06\x16{priority}" if priority else queue


LISTS = tuple(list_of(queue, priority) for priority in PRIORITIES for queue in QUEUES)


class Model:
    """What should be where. A list's left end is the next to be taken."""

    def __init__(self) -> None:
        self.lists: dict[str, deque[str]] = {name: deque() for name in LISTS}
        self.held: dict[str, tuple[str, str]] = {}  #: tag -> (list, message)
        self.acknowledged: set[str] = set()
        self.n_published = 0

    def expected_take(self, limit: int, in_order: bool) -> list[tuple[str, str]]:
        taken: list[tuple[str, str]] = []
        for priority in PRIORITIES:
            lists = [self.lists[list_of(queue, priority)] for queue in QUEUES]
            names = [list_of(queue, priority) for queue in QUEUES]
            while any(lists) and len(taken) < limit:
                for name, waiting in zip(names, lists, strict=True):
                    while waiting and len(taken) < limit:
                        taken.append((name, waiting.popleft()))
                        if not in_order:
                            break
        return taken


class Steps(RuleBasedStateMachine):
    """Publishers, three consumers, crashes, lost answers and the passing of time."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.model = Model()
        self.numbers = [1, 1, 1]
        self.slot = 0
        # Somebody looked just now, so that nothing is held back.
        self.expire()

    def tags_of(self, consumer: int) -> list[str]:
        return [tag for tag in self.model.held if tag.startswith(f"{MARK}{consumer}:")]

    @rule(name=st.sampled_from(LISTS), count=st.integers(1, 4), again=st.booleans())
    def publish(self, name: str, count: int, again: bool) -> None:
        messages = [f'{{"headers": {{}}, "n": {self.model.n_published + n}}}' for n in range(count)]
        self.model.n_published += count
        self.slot += 1
        args = [self.slot, 60, 8, 60, 0, *messages]
        answers = [
            scripts.PUBLISH.run(self.client, [name, f"wake:{name[0]}", "slot"], args)
            for _ in range(2 if again else 1)
        ]
        self.model.lists[name].extend(messages)
        assert answers == [1, 0][: len(answers)]

    @rule(consumer=st.integers(0, 2), limit=st.integers(1, 5), in_order=st.booleans(),
          settles=st.booleans(), answer_is_lost=st.booleans())  # fmt: skip
    def reserve(self, consumer: int, limit: int, in_order: bool, settles: bool, answer_is_lost: bool) -> None:
        along = self.tags_of(consumer)[:1] if settles else []
        first = self.numbers[consumer]
        self.numbers[consumer] += limit
        prefix = f"{MARK}{consumer}:"
        answer = scripts.RESERVE.run(
            self.client,
            [UNACKED, INDEX, *(f"wake:{queue}" for queue in QUEUES), *LISTS],
            [
                prefix,
                first,
                limit,
                len(QUEUES),
                int(in_order),
                *(f',"","{queue}"]' for queue in QUEUES),
                *along,
            ],
        )
        for tag in along:
            self.model.acknowledged.add(self.model.held.pop(tag)[1])
        expected = self.model.expected_take(limit, in_order)
        assert [
            (LISTS[index], raw.decode()) for index, raw in zip(answer[::2], answer[1::2], strict=True)
        ] == expected
        tags = [f"{prefix}{first + n:012d}:{name}" for n, (name, _) in enumerate(expected)]
        self.model.held.update(zip(tags, expected, strict=True))
        if answer_is_lost:
            blindly = [f"{prefix}{first + n:012d}:{name}" for n in range(limit) for name in LISTS]
            self.give_back(blindly, NEXT)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), repeats=st.integers(1, 2))
    def acknowledge(self, data: st.DataObject, repeats: int) -> None:
        tags = data.draw(st.lists(st.sampled_from(sorted(self.model.held)), min_size=1, unique=True))
        for _ in range(repeats):
            scripts.SETTLE.run(self.client, [UNACKED, INDEX], tags)
        self.model.acknowledged.update(self.model.held.pop(tag)[1] for tag in tags)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), place=st.sampled_from([NEXT, LAST]), repeats=st.integers(1, 2))
    def reject_and_requeue(self, data: st.DataObject, place: str, repeats: int) -> None:
        tags = data.draw(st.lists(st.sampled_from(sorted(self.model.held)), min_size=1, unique=True))
        for _ in range(repeats):
            self.give_back(tags, place)

    def give_back(self, tags: list[str], place: str) -> None:
        ours = [tag for tag in tags if tag in self.model.held]
        order = sorted(tags, reverse=True) if place == NEXT else tags
        n_returned = scripts.GIVE_BACK.run(self.client, [UNACKED, INDEX], [place, *order])
        assert n_returned == len(ours)
        self.returned([tag for tag in order if tag in ours], place)

    def returned(self, tags: list[str], place: str) -> None:
        for tag in tags:
            name, message = self.model.held.pop(tag)
            waiting = self.model.lists[name]
            marked = message.replace('"headers": {}', '"headers": {"redelivered": true}')
            (waiting.appendleft if place == NEXT else waiting.append)(marked)

    @rule(consumer=st.integers(0, 2))
    def renew(self, consumer: int) -> None:
        tags = self.tags_of(consumer)
        gone = scripts.RENEW.run(self.client, [UNACKED, INDEX], [*tags, f"{MARK}{consumer}:none:a"])
        assert gone == [f"{MARK}{consumer}:none:a".encode()]

    @rule(consumer=st.integers(0, 2))
    def crash_and_expire(self, consumer: int) -> None:
        tags = self.tags_of(consumer)
        for tag in tags:
            self.client.zincrby(INDEX, -2 * LEASE_S, tag)
        n_returned = self.expire()
        assert n_returned == len(tags)
        # Newest first, so that the oldest is the next; within one renewal the tags tell the age.
        self.returned(sorted(tags, key=lambda tag: self.scores[tag.encode()], reverse=True), NEXT)

    def expire(self) -> int:
        self.scores = {tag: (score, tag) for tag, score in self.client.zrange(INDEX, 0, -1, withscores=True)}
        n_returned = 0
        self.client.hset(PULSE, mapping={"at": self.client.time()[0], "hold": 0})
        while True:
            seen, given = scripts.GIVE_BACK_EXPIRED.run(
                self.client, [UNACKED, INDEX, PULSE], [LEASE_S, LEASE_S / 2, MARK, 2, 0]
            )
            assert seen >= 0
            n_returned += given
            if not seen:
                return n_returned

    @invariant()
    def every_message_is_where_the_model_has_it(self) -> None:
        for name, waiting in self.model.lists.items():
            assert [raw.decode() for raw in reversed(self.client.lrange(name, 0, -1))] == list(waiting)
        records = {tag.decode(): record.decode() for tag, record in self.client.hgetall(UNACKED).items()}
        assert records == {
            tag: f'[{message},"","{name[0]}"]' for tag, (name, message) in self.model.held.items()
        }
        assert {tag.decode() for tag in self.client.zrange(INDEX, 0, -1)} == set(self.model.held)

    def teardown(self) -> None:
        n_waiting = sum(map(len, self.model.lists.values()))
        assert n_waiting + len(self.model.held) + len(self.model.acknowledged) == self.model.n_published


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    directory: Path = tmp_path_factory.mktemp("steps")
    with RedisServer(directory, appendonly=False) as server, server.client() as client:
        yield client


def test_steps_lose_and_double_nothing_and_keep_the_order(client: redis.Redis) -> None:
    class OnThisServer(Steps):
        pass

    OnThisServer.client = client
    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_an_expired_message_is_held_back_after_a_silence(client: redis.Redis) -> None:
    client.flushdb()
    scripts.PUBLISH.run(client, ["a", "wake", "slot"], [1, 60, 8, 60, 0, '{"n": 1}'])
    scripts.RESERVE.run(client, [UNACKED, INDEX, "wake", "a"], [f"{MARK}0:", 1, 1, 1, 0, ',"","a"]'])
    client.zincrby(INDEX, -100, f"{MARK}0:{1:012d}:a")
    keys, args = [UNACKED, INDEX, PULSE], [10, 5, MARK, 10, 0]

    after_silence = scripts.GIVE_BACK_EXPIRED.run(client, keys, args)
    client.hset(PULSE, "hold", 0)
    later = scripts.GIVE_BACK_EXPIRED.run(client, keys, args)

    assert after_silence == [-1, 0]
    assert later == [1, 1]
    assert client.lrange("a", 0, -1) == [b'{"n": 1}']


def test_a_given_back_message_keeps_its_bytes_but_for_the_mark(client: redis.Redis) -> None:
    client.flushdb()
    message = (
        '{"body": "W10=", "headers": {"big": 123456789012345678901, "empty": [], "x": {}},'
        ' "properties": {"delivery_info": {"exchange": "", "routing_key": "a"}, "f": 1.10}}'
    )
    client.lpush("a", message, "\udce4garbage".encode("utf-8", "surrogateescape"))
    scripts.RESERVE.run(client, [UNACKED, INDEX, "wake", "a"], [f"{MARK}0:", 1, 9, 1, 0, ',"","a"]'])

    for _ in range(2):
        tags = sorted((tag.decode() for tag in client.hkeys(UNACKED)), reverse=True)
        scripts.GIVE_BACK.run(client, [UNACKED, INDEX], [NEXT, *tags])
        scripts.RESERVE.run(client, [UNACKED, INDEX, "wake", "a"], [f"{MARK}0:", 20, 9, 1, 0, ',"","a"]'])
        client.hgetall(UNACKED)
    records = sorted(client.hvals(UNACKED))

    marked = message.replace('"headers": {', '"headers": {"redelivered": true, ').replace(
        '"delivery_info": {', '"delivery_info": {"redelivered": true, '
    )
    assert records == sorted([f'[{marked},"","a"]'.encode(), b'[\xe4garbage,"","a"]'])

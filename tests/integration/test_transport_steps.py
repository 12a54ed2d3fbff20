"""The Lua steps against a model: whatever happens in whatever order, no message is lost or doubled."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
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
from kombu import Connection

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.transport import scripts
from pynomaly_tasks.transport.ledger import LAST, MARK, NEXT, Keys, Ledger
from support.transport import OURS

QUEUES = ("a", "b")
PRIORITIES = (0, 3)
UNACKED, INDEX, PULSE, DEAD = "unacked", "unacked_index", "unacked_pulse", "dead"
LEASE_S = 1_000


def list_of(queue: str, priority: int) -> str:
    return f"{queue}\x06\x16{priority}" if priority else queue


LISTS = tuple(list_of(queue, priority) for priority in PRIORITIES for queue in QUEUES)


class Model:
    """What should be where. A list's left end is the next to be taken; a message is known by its number."""

    def __init__(self) -> None:
        self.lists: dict[str, deque[int]] = {name: deque() for name in LISTS}
        self.held: dict[str, tuple[str, int]] = {}  #: tag -> (list, message)
        self.settled: set[str] = set()  #: tags of ours that were
        self.acknowledged: list[int] = []
        self.buried: list[int] = []
        self.n_published = 0

    def expected_take(self, limit: int, in_order: bool) -> list[tuple[str, int]]:
        taken: list[tuple[str, int]] = []
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

    def acknowledge(self, tags: Iterable[str]) -> None:
        for tag in tags:
            self.acknowledged.append(self.held.pop(tag)[1])
            self.settle(tag)

    def give_back(self, tags: Iterable[str], place: str) -> None:
        for tag in tags:
            name, message = self.held.pop(tag)
            (self.lists[name].appendleft if place == NEXT else self.lists[name].append)(message)
            self.settle(tag)

    def settle(self, tag: str) -> None:
        # kombu's tag goes with its message from one delivery to the next; ours is of one delivery.
        if tag.startswith(MARK):
            self.settled.add(tag)


def message_of(queue: str, priority: int, number: int) -> str:
    """As kombu writes one."""
    delivery = {"exchange": "", "routing_key": queue}
    properties = {"delivery_info": delivery, "delivery_tag": f"kombu-{number}", "priority": priority}
    return json.dumps({"body": "", "n": number, "headers": {}, "properties": properties})


class Steps(RuleBasedStateMachine):
    """Publishers, three consumers of ours, a plain one, crashes, lost answers and the passing of time."""

    client: redis.Redis
    plain: Connection
    ours: Connection

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.model = Model()
        self.numbers = [1, 1, 1]
        self.slot = 0
        self.expire()

    def tags_of(self, consumer: int) -> list[str]:
        return [tag for tag in self.model.held if tag.startswith(f"{MARK}{consumer}:")]

    def plain_tags(self) -> list[str]:
        return [tag for tag in self.model.held if not tag.startswith(MARK)]

    # ---- ours

    @rule(queue=st.sampled_from(QUEUES), priority=st.sampled_from(PRIORITIES), count=st.integers(1, 4),
          again=st.booleans())  # fmt: skip
    def publish(self, queue: str, priority: int, count: int, again: bool) -> None:
        name = list_of(queue, priority)
        numbers = range(self.model.n_published, self.model.n_published + count)
        self.model.n_published += count
        self.slot += 1
        args = [self.slot, 60, 8, 60, 0, *(message_of(queue, priority, number) for number in numbers)]
        answers = [
            scripts.PUBLISH.run(self.client, [name, f"wake:{queue}", "slot"], args)
            for _ in range(2 if again else 1)
        ]
        self.model.lists[name].extend(numbers)
        assert answers == [1, 0][: len(answers)]

    @rule(consumer=st.integers(0, 2), limit=st.integers(0, 5), in_order=st.booleans(),
          settles=st.booleans(), answer_is_lost=st.booleans())  # fmt: skip
    def reserve(self, consumer: int, limit: int, in_order: bool, settles: bool, answer_is_lost: bool) -> None:
        along = self.tags_of(consumer)[:1] if settles else []
        first = self.numbers[consumer]
        self.numbers[consumer] += limit
        prefix = f"{MARK}{consumer}:"
        ends = [f',"","{queue}"]' for queue in QUEUES]
        answer = scripts.RESERVE.run(
            self.client,
            [UNACKED, INDEX, *(f"wake:{queue}" for queue in QUEUES), *LISTS],
            [prefix, first, limit, len(QUEUES), int(in_order), *ends, *along],
        )
        self.model.acknowledge(along)
        expected = self.model.expected_take(limit, in_order)
        assert [
            (LISTS[index], number_of(raw)) for index, raw in zip(answer[::2], answer[1::2], strict=True)
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
        self.model.acknowledge(tags)

    @precondition(lambda self: self.model.settled)
    @rule(data=st.data())
    def settle_what_was_settled_before(self, data: st.DataObject) -> None:
        tags = data.draw(st.lists(st.sampled_from(sorted(self.model.settled)), min_size=1, unique=True))
        scripts.SETTLE.run(self.client, [UNACKED, INDEX], tags)
        n_returned = scripts.GIVE_BACK.run(self.client, [UNACKED, INDEX], [NEXT, *tags])
        n_buried = scripts.BURY.run(self.client, [UNACKED, INDEX, DEAD], [tags[0], "-1"])
        assert (n_returned, n_buried) == (0, 0)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.model.held)))
        _, message = self.model.held.pop(tag)
        assert scripts.BURY.run(self.client, [UNACKED, INDEX, DEAD], [tag, str(message)]) == 1
        self.model.buried.append(message)
        self.model.settle(tag)

    @rule(data=st.data(), place=st.sampled_from([NEXT, LAST]), repeats=st.integers(1, 2))
    @precondition(lambda self: any(tag.startswith(MARK) for tag in self.model.held))
    def requeue(self, data: st.DataObject, place: str, repeats: int) -> None:
        ours = sorted(tag for tag in self.model.held if tag.startswith(MARK))
        tags = data.draw(st.lists(st.sampled_from(ours), min_size=1, unique=True))
        for _ in range(repeats):
            self.give_back(tags, place)

    def give_back(self, tags: list[str], place: str) -> None:
        order = sorted(tags, reverse=True) if place == NEXT else tags
        held = [tag for tag in order if tag in self.model.held]
        n_returned = scripts.GIVE_BACK.run(self.client, [UNACKED, INDEX], [place, *order])
        assert n_returned == len(held)
        self.model.give_back(held, place)

    @rule(consumer=st.integers(0, 2))
    def renew(self, consumer: int) -> None:
        tags = self.tags_of(consumer)
        before = self.client.zrange(INDEX, 0, -1)
        gone = scripts.RENEW.run(self.client, [UNACKED, INDEX], [*tags, f"{MARK}{consumer}:none:a"])
        assert gone == [f"{MARK}{consumer}:none:a".encode()]
        assert set(self.client.zrange(INDEX, 0, -1)) == set(before)

    @rule(consumer=st.integers(0, 2))
    def crash_and_expire(self, consumer: int) -> None:
        tags = self.tags_of(consumer)
        for tag in tags:
            self.client.zincrby(INDEX, -2 * LEASE_S, tag)
        scores = {
            tag.decode(): (score, tag) for tag, score in self.client.zrange(INDEX, 0, -1, withscores=True)
        }
        n_returned = self.expire()
        assert n_returned == len(tags)
        # Newest first, so that the oldest is the next; within one renewal the tags tell the age.
        self.model.give_back(sorted(tags, key=lambda tag: scores[tag], reverse=True), NEXT)

    def expire(self) -> int:
        # Somebody looked just now, so that nothing is held back.
        self.client.hset(PULSE, mapping={"at": self.client.time()[0], "hold": 0})
        keys = Keys(unacked=UNACKED, index=INDEX, pulse=PULSE)
        return Ledger(self.client, keys, lease_s=LEASE_S, is_consuming=lambda: False).give_back_expired()

    # ---- kombu's own, beside

    @rule(queue=st.sampled_from(QUEUES))
    def take_plainly(self, queue: str) -> None:
        message = self.plain.default_channel.basic_get(queue)
        names = [
            list_of(queue, priority) for priority in PRIORITIES if self.model.lists[list_of(queue, priority)]
        ]
        assert (message is None) == (not names)
        if message is not None:
            number = self.model.lists[names[0]].popleft()
            assert message._raw["n"] == number
            self.model.held[message.delivery_tag] = (names[0], number)

    @precondition(lambda self: self.plain_tags())
    @rule(data=st.data())
    def acknowledge_plainly(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.plain_tags())))
        self.plain.default_channel.basic_ack(tag)
        self.model.acknowledge([tag])

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def restore_plainly(self, data: st.DataObject) -> None:
        """A plain worker gives back what it thinks has been held for too long, whoever holds it."""
        tag = data.draw(st.sampled_from(sorted(self.model.held)))
        self.plain.default_channel.qos.restore_by_tag(tag)
        self.model.give_back([tag], NEXT)

    @rule()
    def restore_what_a_dead_plain_worker_held(self) -> None:
        tags = self.plain_tags()
        for age, tag in enumerate(tags):
            self.client.zadd(INDEX, {tag: 1 + age})
        assert self.expire() == 0  # no lease of ours
        self.ours.default_channel.qos.restore_visible(num=None, interval=1)
        self.model.give_back(reversed(tags), NEXT)

    # ---- what always holds

    @invariant()
    def every_message_is_where_the_model_has_it(self) -> None:
        for name, waiting in self.model.lists.items():
            found = [number_of(raw) for raw in reversed(self.client.lrange(name, 0, -1))]
            assert found == list(waiting)
        records = {tag.decode(): json.loads(record) for tag, record in self.client.hgetall(UNACKED).items()}
        assert {tag: (message["n"], *where) for tag, (message, *where) in records.items()} == {
            tag: (number, "", name[0]) for tag, (name, number) in self.model.held.items()
        }
        assert {tag.decode() for tag in self.client.zrange(INDEX, 0, -1)} == set(self.model.held)
        assert [int(raw) for raw in reversed(self.client.lrange(DEAD, 0, -1))] == self.model.buried

    def teardown(self) -> None:
        waiting = [number for numbers in self.model.lists.values() for number in numbers]
        held = [number for _, number in self.model.held.values()]
        everywhere = waiting + held + self.model.acknowledged + self.model.buried
        assert sorted(everywhere) == list(range(self.model.n_published))


def number_of(raw: bytes) -> int:
    return int(json.loads(raw)["n"])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    directory: Path = tmp_path_factory.mktemp("steps")
    with RedisServer(directory, appendonly=False) as server, server.client() as client:
        yield client


def test_steps_lose_and_double_nothing_and_keep_the_order(client: redis.Redis) -> None:
    run_steps(client, max_examples=40, stateful_step_count=25)


@pytest.mark.slow
def test_steps_lose_and_double_nothing_in_500_histories(client: redis.Redis) -> None:
    run_steps(client, max_examples=500, stateful_step_count=50)


def run_steps(client: redis.Redis, **profile: int) -> None:
    url = f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"
    with Connection(url) as plain, Connection(url, transport=OURS) as ours:

        class OnThisServer(Steps):
            pass

        OnThisServer.client, OnThisServer.plain, OnThisServer.ours = client, plain, ours
        run_state_machine_as_test(
            OnThisServer,
            settings=settings(deadline=None, suppress_health_check=list(HealthCheck), **profile),
        )


def test_an_expired_message_is_held_back_after_a_silence(client: redis.Redis) -> None:
    client.flushdb()
    scripts.PUBLISH.run(client, ["a", "wake", "slot"], [1, 60, 8, 60, 0, '{"n": 1}'])
    scripts.RESERVE.run(client, [UNACKED, INDEX, "wake", "a"], [f"{MARK}0:", 1, 1, 1, 0, ',"","a"]'])
    client.zincrby(INDEX, -100, f"{MARK}0:{1:012d}:a")
    now = client.time()[0]
    keys, args = [UNACKED, INDEX, PULSE], [10, 5, MARK, 10, 0]

    after_silence = scripts.GIVE_BACK_EXPIRED.run(client, keys, [*args, now])
    client.hset(PULSE, "hold", 0)
    by_one_who_stood_still = scripts.GIVE_BACK_EXPIRED.run(client, keys, [*args, now - 6])
    later = scripts.GIVE_BACK_EXPIRED.run(client, keys, [*args, now])

    assert after_silence == [-1, 0]
    assert by_one_who_stood_still == [-1, 0]
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

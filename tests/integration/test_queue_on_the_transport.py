"""What the engine's queue sees of the transport: messages that workers hold, and the dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from kombu import Connection

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.queueing.queue import CeleryQueue
from support.jobs import Engine
from support.processes import Programs
from support.tcp_proxy import TcpProxy
from support.transport import OURS, SEP
from support.waiting import wait_until


@pytest.fixture
def engine(tmp_path: Path, programs: Programs, own_redis: RedisServer) -> Iterator[Engine]:
    engine = Engine(tmp_path / "engine", programs, own_redis.url)
    yield engine
    engine.close()


@pytest.fixture
def broker(own_redis: RedisServer) -> Iterator[redis.Redis]:
    with own_redis.client(1) as client:
        yield client


@pytest.fixture
def queue(engine: Engine) -> CeleryQueue:
    return engine.platform.queue


def test_message_that_a_living_worker_holds_is_not_lost(
    engine: Engine, queue: CeleryQueue, own_redis: RedisServer, broker: redis.Redis
) -> None:
    held, waiting = engine.submit(), engine.submit()

    with Connection(f"{own_redis.url}/1", transport=OURS) as consumer:
        message = consumer.default_channel.basic_get("default")
        assert queue.n_ready("default") == 1
        assert queue.ready_ids("default") == {held.id, waiting.id}
        [tag] = broker.zrange("unacked_index", 0, -1)

        def counts_as_lost() -> bool:
            seconds, _ = broker.time()
            # Longer than half of the lease of 2 s ago; the consumer may be heard of again at any time.
            broker.zadd("unacked_index", {tag: seconds - 1.5})
            return queue.ready_ids("default") == {waiting.id}

        wait_until(counts_as_lost, 10, "the held message to count as lost")
        message.ack()


def test_what_a_worker_on_kombus_transport_holds_may_be_lost(
    engine: Engine, queue: CeleryQueue, own_redis: RedisServer
) -> None:
    engine.submit()

    with Connection(f"{own_redis.url}/1", transport_options={"priority_steps": list(range(10))}) as consumer:
        message = consumer.default_channel.basic_get("default")
        assert message is not None
        assert queue.ready_ids("default") == set()
        message.ack()


def test_letters_are_taken_by_one_collector_at_a_time(queue: CeleryQueue, broker: redis.Redis) -> None:
    broker.lpush(f"reports{SEP}dead", b"first", b"second")

    with_letters = queue.take_dead_letters(["default", "reports"])
    first = next(with_letters)
    assert list(queue.take_dead_letters(["reports"])) == []
    queue.forget_dead_letter(first)
    assert len(list(with_letters)) == 1
    [left] = queue.take_dead_letters(["reports"])

    assert {first.raw, left.raw} == {b"first", b"second"}
    assert (first.queue, left.queue) == ("reports", "reports")
    assert broker.llen(f"reports{SEP}dead") == 1


def test_jobs_are_accepted_and_each_has_its_message_when_every_answer_to_their_publish_is_lost(
    tmp_path: Path, programs: Programs, own_redis: RedisServer, broker: redis.Redis,
    tcp_proxy: Callable[[int], TcpProxy],
) -> None:  # fmt: skip
    proxy = tcp_proxy(own_redis.port)
    engine = Engine(tmp_path / "behind", programs, f"redis://127.0.0.1:{proxy.port}")
    engine.submit()  # the server knows the script, and a connection is open

    proxy.cut_after_bytes = 1
    jobs = engine.platform.submit_many("act", [engine.request() for _ in range(1_000)])
    proxy.cut_after_bytes = None
    ringing = engine.platform.queue.ready_ids("default")
    engine.close()

    assert {job.id for job in jobs} <= ringing
    # The queue rings twice when it cannot know; the transport's own repetitions are recognised.
    assert 1_001 <= broker.llen("default") + broker.llen(f"default{SEP}9") <= 2_001


def test_jobs_are_accepted_while_the_broker_is_down(engine: Engine, own_redis: RedisServer) -> None:
    engine.submit()
    own_redis.kill()

    jobs = engine.platform.submit_many("act", [engine.request() for _ in range(5)])

    assert {engine.job(job).state for job in jobs} == {JobState.QUEUED}

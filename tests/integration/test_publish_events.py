"""Applications publish events of their own: straight to the log, by the outbox while it is away, in transactions."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pynomaly_tasks import publish_event, publish_event_async, transaction
from pynomaly_tasks.bootstrap import Platform, app
from pynomaly_tasks.core.event import JOB_EVENTS
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import EventLogUnavailable, InvalidInput, StoreUnavailable
from pynomaly_tasks.events.catalog import CATALOG, EventType
from pynomaly_tasks.events.cloudevents import decode, encode
from pynomaly_tasks.events.publish import EventPublisher
from support.jobs import settings_from
from support.kafka import KafkaNode
from support.own_events import Misdirected, OrderPlaced, Unknown, published
from support.processes import Programs
from support.stack import Stack, client
from support.waiting import wait_until


def environment(directory: Path, redis: RedisServer, **more: str) -> dict[str, str]:
    return {
        "PYNOMALY_DATA__DIRECTORY": str(directory / "platform"),
        "PYNOMALY_REDIS__URL": redis.url,
        "PYNOMALY_REDIS__SOCKET_TIMEOUT_S": "2",
        "PYNOMALY_KAFKA__TIMEOUT_S": "3",
        "PYNOMALY_OUTBOX__POLL_S": "0.2",
        "PYNOMALY_OUTBOX__LEASE_S": "2",
        **more,
    }


@pytest.fixture
def redis(own_redis: RedisServer) -> RedisServer:
    return own_redis.start()


@pytest.fixture
def platform(tmp_path: Path, redis: RedisServer) -> Iterator[Platform]:
    """Events go to Redis Streams."""
    platform = Platform(settings_from(environment(tmp_path, redis)))
    yield platform
    platform.close()


def relay(programs: Programs, env: dict[str, str]) -> None:
    programs.python("-m", "workers.relay", name="relay", env=env)


def run_program(programs: Programs, env: dict[str, str], function: str) -> None:
    """Call a function of `support.own_events` in a process of its own, until that ends."""
    code = f"from support import own_events; own_events.{function}()"
    program = programs.python("-c", code, name=function, env={**env, "PYTHONPATH": "tests"})
    wait_until(lambda: not program.is_running(), 30, "its end")
    assert program.returncode == 0, program.output()


def n_unsent(platform: Platform) -> int:
    return platform.store.get_outbox_lag().n_unsent


def test_an_event_is_in_the_log_when_publish_event_returns(platform: Platform) -> None:
    event_id = publish_event(OrderPlaced(number=7, note="ü"), key="customer-1", platform=platform)

    (record,) = asyncio.run(platform.event_reader().read(JOB_EVENTS, since=None, until=None, max_records=10))
    event = decode(record)
    assert (event.id, event.type, event.key) == (event_id, "test.order_placed", "customer-1")
    assert event.data == {"number": 7, "note": "ü"}
    assert event.source == "/pynomaly"
    assert n_unsent(platform) == 0


def test_events_of_a_key_stay_in_the_order_of_the_calls(platform: Platform) -> None:
    for number in range(300):
        publish_event(OrderPlaced(number=number), key=f"key-{number % 3}", wait=False, platform=platform)
    publish_event(OrderPlaced(number=300), key="key-0", platform=platform)
    platform.publisher.close()

    assert published(platform) == {
        "key-0": list(range(0, 301, 3)),
        "key-1": list(range(1, 300, 3)),
        "key-2": list(range(2, 300, 3)),
    }


def test_coroutines_publish_without_holding_up_their_loop(platform: Platform) -> None:
    async def scenario() -> float:
        longest_s, is_over = 0.0, False

        async def tick() -> None:
            nonlocal longest_s
            while not is_over:
                began_s = time.perf_counter()
                await asyncio.sleep(0.005)
                longest_s = max(longest_s, time.perf_counter() - began_s)

        await publish_event_async(OrderPlaced(number=0), key="a", platform=platform)
        ticking = asyncio.create_task(tick())
        await asyncio.gather(
            *(publish_event_async(OrderPlaced(number=n), key="a", platform=platform) for n in range(1, 200))
        )
        is_over = True
        await ticking
        return longest_s

    assert asyncio.run(scenario()) < 0.5
    assert published(platform) == {"a": list(range(200))}


def test_publish_event_refuses_to_block_an_event_loop(platform: Platform) -> None:
    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="publish_event_async"):
            publish_event(OrderPlaced(number=1), key="a", platform=platform)
        publish_event(OrderPlaced(number=2), key="a", wait=False, platform=platform)

    asyncio.run(scenario())
    platform.publisher.close()

    assert published(platform) == {"a": [2]}


@pytest.mark.parametrize(
    ("data", "options", "field", "says"),
    [
        (Unknown(), {}, "data", "add_event_type"),
        (Misdirected(), {}, "data", "no_such_topic"),
        (OrderPlaced(number=-1), {}, "data.number", "greater than or equal to 0"),
        (OrderPlaced(number="1"), {}, "data.number", "integer"),  # type: ignore[arg-type]  # what is tested
        (OrderPlaced(number=1, note="x" * 600_000), {}, "data", "events.max_event_kb"),
        (OrderPlaced(number=1), {"key": ""}, "key", "1 to 255"),
        (OrderPlaced(number=1), {"key": "k" * 256}, "key", "1 to 255"),
        (OrderPlaced(number=1), {"key": "a\nb"}, "key", "printable"),
        (OrderPlaced(number=1), {"traceparent": "00-x"}, "traceparent", "W3C"),
        ({"number": 1}, {}, "data", "dict"),
    ],
)
def test_what_cannot_be_published_is_refused_at_the_door(
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    data: EventData,
    options: dict[str, Any],
    field: str,
    says: str,
) -> None:
    # For this test alone: its topic is in no document of the catalogue.
    monkeypatch.setitem(CATALOG._newest, Misdirected.type, EventType(Misdirected))

    with pytest.raises(InvalidInput, match=says) as refused:
        publish_event(data, **{"key": "a", "platform": platform, **options})

    assert refused.value.problems[0].field == field


def test_an_event_of_a_transaction_is_published_if_that_commits(platform: Platform, programs: Programs, tmp_path: Path,
                                                               redis: RedisServer) -> None:  # fmt: skip
    with transaction(platform) as connection:
        connection.execute(text("CREATE TABLE orders (number INTEGER)"))
        connection.execute(text("INSERT INTO orders VALUES (1)"))
        publish_event(OrderPlaced(number=1), key="a", platform=platform)
        publish_event(OrderPlaced(number=2), key="a", platform=platform)
    # What follows with the same key waits for the relay, too: it must not overtake.
    publish_event(OrderPlaced(number=3), key="a", platform=platform)
    publish_event(OrderPlaced(number=4), key="b", platform=platform)
    assert published(platform) == {"b": [4]}
    assert n_unsent(platform) == 3

    relay(programs, environment(tmp_path, redis))
    wait_until(lambda: n_unsent(platform) == 0, 30, "the relay")
    assert published(platform) == {"a": [1, 2, 3], "b": [4]}

    def straight() -> bool:
        publish_event(OrderPlaced(number=5), key="a", platform=platform)
        return not platform.publisher._diverted

    wait_until(straight, 10, "the key to take the straight way again", every_s=0.2)
    assert set(published(platform)["a"]) == {1, 2, 3, 5}


def test_an_event_of_a_transaction_is_not_published_if_that_rolls_back(platform: Platform) -> None:
    with pytest.raises(ZeroDivisionError), transaction(platform) as connection:
        connection.execute(text("CREATE TABLE orders (number INTEGER)"))
        publish_event(OrderPlaced(number=1), key="a", platform=platform)
        raise ZeroDivisionError
    publish_event(OrderPlaced(number=2), key="a", platform=platform)

    assert published(platform) == {"a": [2]}
    assert n_unsent(platform) == 0
    with sqlite3.connect(platform.store._db.url.database or "") as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'orders'").fetchone() == (
            0,
        )
    connection.close()


def test_a_transaction_on_postgresql_holds_its_events_too(
    tmp_path: Path, redis: RedisServer, postgres_url: str
) -> None:
    platform = Platform(settings_from(environment(tmp_path, redis, PYNOMALY_STORE__URL=postgres_url)))
    with pytest.raises(ZeroDivisionError), transaction(platform):
        publish_event(OrderPlaced(number=1), key="a", platform=platform)
        raise ZeroDivisionError
    with transaction(platform):
        publish_event(OrderPlaced(number=2), key="a", platform=platform)
        assert platform.store.list_unsent(10) == []
    publish_event(OrderPlaced(number=3), key="a", platform=platform)

    entries = platform.store.list_unsent(10)
    assert [entry.event.data["number"] for entry in entries] == [2, 3]
    assert published(platform) == {}
    platform.close()


def test_a_transaction_belongs_to_its_thread(platform: Platform) -> None:
    with transaction(platform):
        with pytest.raises(RuntimeError, match="open already"), transaction(platform):
            pass

        async def elsewhere() -> None:
            await asyncio.to_thread(publish_event, OrderPlaced(number=1), key="a", platform=platform)

        with pytest.raises(RuntimeError, match="another thread"):
            asyncio.run(elsewhere())


@pytest.fixture(params=["kafka", "redis_streams"])
def with_log_to_stop(
    request: pytest.FixtureRequest, tmp_path: Path, start_redis: Callable[..., RedisServer]
) -> Iterator[tuple[dict[str, str], Callable[[], None], Callable[[], None]]]:
    """The environment, and how the log of events is stopped and started again."""
    redis = start_redis()
    if request.param == "kafka":
        node: KafkaNode = request.getfixturevalue("own_kafka")
        for topic in ("job_events", "anomaly_events", "system_events", "audit_events", "dead_letter_events"):
            node.create_topic(topic, 2)
        env = environment(tmp_path, redis, PYNOMALY_EVENTS__BACKEND="kafka",
                          PYNOMALY_KAFKA__BOOTSTRAP_SERVERS=node.bootstrap)  # fmt: skip
        yield env, node.kill, node.restart
    else:
        yield environment(tmp_path, redis), redis.kill, lambda: redis.start() and None


def test_what_is_published_while_the_log_is_away_is_published_later_in_order(
    with_log_to_stop: tuple[dict[str, str], Callable[[], None], Callable[[], None]], programs: Programs
) -> None:
    env, stop, start = with_log_to_stop
    platform = Platform(settings_from(env))
    number = 0

    def publish(n: int) -> float:
        nonlocal number
        longest_s = 0.0
        for _ in range(n):
            began_s = time.monotonic()
            publish_event(OrderPlaced(number=number), key=f"key-{number % 2}", platform=platform)
            longest_s = max(longest_s, time.monotonic() - began_s)
            number += 1
        return longest_s

    publish(20)
    stop()
    # Only the call that finds out waits for the log's timeout; the others go to the outbox.
    assert publish(40) < 6.0
    assert n_unsent(platform) >= 40
    start()
    relay(programs, env)
    publish(40)
    wait_until(lambda: n_unsent(platform) == 0, 60, "the relay to publish what waited")
    wait_until(lambda: publish(2) is not None and not platform.publisher._diverted, 60,
               "the straight way to be taken again", every_s=0.3)  # fmt: skip
    publish(20)
    platform.close()

    assert published(Platform(settings_from(env))) == {
        "key-0": list(range(0, number, 2)),
        "key-1": list(range(1, number, 2)),
    }


def test_an_orderly_end_of_the_process_publishes_what_was_accepted(
    tmp_path: Path, redis: RedisServer, programs: Programs
) -> None:
    env = environment(tmp_path, redis)
    run_program(programs, env, "publish_and_end")

    assert published(Platform(settings_from(env))) == {"a": list(range(500))}


def test_an_orderly_end_while_the_log_is_away_leaves_all_in_the_outbox(
    tmp_path: Path, redis: RedisServer, programs: Programs
) -> None:
    env = environment(tmp_path, redis)
    redis.kill()
    run_program(programs, env, "publish_and_end")

    platform = Platform(settings_from(env))
    entries = platform.store.list_unsent(1_000)
    assert [entry.event.data["number"] for entry in entries] == list(range(500))
    platform.close()


def test_a_forked_process_publishes_its_own_events_and_not_its_parents(
    tmp_path: Path, redis: RedisServer, programs: Programs
) -> None:
    env = environment(tmp_path, redis)
    run_program(programs, env, "publish_and_fork")

    assert published(Platform(settings_from(env))) == {"parent": [1, 4], "child": [2, 3]}


class BrokenOutbox:
    """A store that is away."""

    def is_in_transaction(self) -> bool:
        return False

    def after_commit(self, call: Callable[[], None]) -> None:
        raise AssertionError("no transaction is open")

    def add_ready_events(self, events: Any) -> list[int]:
        raise StoreUnavailable("the job store gave no answer")

    def find_unsent(self, numbers: Any) -> set[int]:
        raise StoreUnavailable("the job store gave no answer")


def test_a_call_says_that_neither_log_nor_outbox_took_the_event(tmp_path: Path, redis: RedisServer) -> None:
    platform = Platform(settings_from(environment(tmp_path, redis)))
    platform.__dict__["publisher"] = publisher = EventPublisher(
        platform.event_producer,
        BrokenOutbox(),
        lambda event: encode(event, "/test"),
        lambda: None,
        max_waiting=10,
    )
    redis.signal(signal.SIGSTOP)
    with pytest.raises(EventLogUnavailable, match="neither the log of events nor the outbox"):
        publish_event(OrderPlaced(number=0), key="a", platform=platform)

    # Nothing is dropped of what nobody waits for: it waits, and what would be too much is refused.
    with pytest.raises(EventLogUnavailable, match="at most 10"):
        for number in range(1, 100):
            publish_event(OrderPlaced(number=number), key="a", wait=False, platform=platform)
    n_accepted = number - 1
    redis.signal(signal.SIGCONT)
    publisher._outbox = platform.store.event_transactions
    publisher.close(timeout_s=20)
    unsent = [entry.event.data["number"] for entry in platform.store.list_unsent(100)]
    in_log = published(platform).get("a", [])
    assert set(unsent) | set(in_log) >= set(range(1, n_accepted + 1))
    platform.close()


def test_many_threads_publish_at_once(platform: Platform) -> None:
    def publish(name: str) -> None:
        for number in range(50):
            publish_event(OrderPlaced(number=number), key=name, platform=platform)

    threads = [threading.Thread(target=publish, args=(f"thread-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert published(platform) == {f"thread-{n}": list(range(50)) for n in range(8)}


@pytest.mark.parametrize("recycles", [False, True])
def test_a_child_of_a_worker_publishes_what_its_jobs_have_accepted(
    tmp_path: Path, redis: RedisServer, recycles: bool
) -> None:
    """It ends without Python's own handlers for that: when the worker is told to, and after so many jobs."""
    stack = Stack(tmp_path / "stack", redis)
    with client(stack):
        options = ["--pool", "prefork", "-c", "1", *(["--max-tasks-per-child", "1"] if recycles else [])]
        worker = stack.worker("support.publishing_worker", *options)
        jobs = [
            app.send_task("pynomaly.tasks.publish", kwargs={"n": 200}, queue="default").id for _ in range(2)
        ]
        for job in jobs:
            wait_until(lambda job=job: is_final(stack.platform, job), 30, "the job")
        worker.stop(30.0)

        assert published(stack.platform) == {job: list(range(200)) for job in jobs}
    stack.close()


def is_final(platform: Platform, job_id: str) -> bool:
    job = platform.store.find_job(job_id)
    return job is not None and job.state.is_final

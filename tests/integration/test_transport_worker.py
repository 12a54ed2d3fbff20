"""Celery workers on our transport: what they take, hold, give back, bury, and how soon they start."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from celery import Celery

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.transport import OUR_CONSUMER, OURS, PLAIN, SEP, Fleet
from support.waiting import wait_until

#: Tasks that four slots may end while an acknowledgement waits for company.
UNACKNOWLEDGED = 40


@pytest.fixture
def fleet(own_redis: RedisServer, programs: Programs) -> Iterator[Fleet]:
    fleet = Fleet(own_redis, programs)
    yield fleet
    fleet.close()


def test_task_longer_than_the_lease_runs_once_while_its_worker_lives(fleet: Fleet) -> None:
    fleet.worker()
    fleet.submit(1, lasts_s=6.0)
    fleet.wait_for_start(1)
    fleet.worker()

    fleet.wait_for_ends(1)
    wait_until(lambda: fleet.n_unacked() == 0, 5, "all to be settled")

    assert fleet.started() == {1: 1}


def test_task_of_a_killed_worker_starts_again_within_a_lease_and_a_half(fleet: Fleet) -> None:
    first = fleet.worker()
    fleet.submit(1, gate="gate")
    fleet.wait_for_start(1)
    fleet.worker()

    killed_at = time.monotonic()
    first.kill()
    fleet.wait_for_start(1, times=2)
    took_s = time.monotonic() - killed_at
    fleet.effects.rpush("gate", 1)
    fleet.wait_for_ends(1)

    assert took_s < 1.5 * 2.0 + 1.0
    assert fleet.effects.hget("redelivered", "1") == b"1"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_stopping_worker_gives_back_at_once_what_it_had_not_started(
    own_redis: RedisServer, programs: Programs, pool: str
) -> None:
    fleet = Fleet(own_redis, programs, lease_s=60.0)
    first = fleet.worker(pool=pool, slots=1)
    fleet.submit(*range(1, 5), gate="gate")
    wait_until(lambda: fleet.n_unacked() == 4, 5, "the worker to take all four")
    fleet.wait_for_start(1)

    first.signal_leader(signal.SIGTERM)
    fleet.effects.rpush("gate", *range(4))
    wait_until(lambda: not first.is_running(), 20, "the worker to end")
    n_left = fleet.n_waiting()
    fleet.worker(slots=1)
    fleet.wait_for_ends(4, timeout_s=10)

    assert n_left + len(fleet.ended()) >= 4
    assert set(fleet.started().values()) == {1}
    assert fleet.effects.lrange("order", 0, -1) == [b"1", b"2", b"3", b"4"]
    fleet.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_worker_that_asks_ahead_loses_nothing_when_it_ends(
    own_redis: RedisServer, programs: Programs, pool: str, number: signal.Signals
) -> None:
    fleet = Fleet(own_redis, programs)
    env = {**OUR_CONSUMER, "TRANSPORT_PREFETCH": "16"}
    first = fleet.worker(pool=pool, slots=4, env=env)
    fleet.submit(*range(1, 201), gate="gate")
    wait_until(lambda: fleet.n_unacked() == 64, 5, "the worker to take what it may")
    fleet.effects.rpush("gate", *range(40))
    fleet.wait_for_ends(40)

    if number is signal.SIGKILL:
        first.kill()
    else:
        first.signal_leader(number)
    fleet.effects.rpush("gate", *range(300))
    wait_until(lambda: not first.is_running(), 20, "the worker to end")
    running = sum((fleet.started() - fleet.ended()).values())
    fleet.worker(pool=pool, slots=4, env=env)
    wait_until(lambda: len(fleet.ended()) == 200 and fleet.n_unacked() == 0, 30, "all to be done")

    # Those that had ended and were not acknowledged yet may run again as well.
    n_again = sum(fleet.started().values()) - 200
    assert n_again <= (running + UNACKNOWLEDGED if number is signal.SIGKILL else 0)
    fleet.close()


@pytest.mark.parametrize(("transport", "within_s"), [(OURS, 0.1), (PLAIN, 0.5)])
def test_idle_worker_starts_a_message_soon(fleet: Fleet, transport: str, within_s: float) -> None:
    fleet.worker(pool="threads")
    waits = []

    with Celery(set_as_current=False) as app, fleet.connection(transport).Producer() as producer:
        for number in range(10):
            published_at = time.monotonic()
            app.send_task("work", (number,), producer=producer)
            fleet.wait_for_start(number)
            waits.append(time.monotonic() - published_at)

    assert sorted(waits)[5] < within_s


def test_better_priorities_go_first_and_queues_take_turns(fleet: Fleet) -> None:
    fleet.submit(1, 2, 3, queue="a", priority=6)
    fleet.submit(11, 12, 13, queue="b", priority=6)
    fleet.submit(21, queue="b", priority=0)

    fleet.worker(OURS, "-Q", "a,b", pool="solo")
    fleet.wait_for_ends(7)

    order = [int(number) for number in fleet.effects.lrange("order", 0, -1)]
    assert order[0] == 21
    assert order[1::2] in ([1, 2, 3], [11, 12, 13])
    assert order[2::2] in ([1, 2, 3], [11, 12, 13])


def test_countdown_is_waited_for_and_held(fleet: Fleet) -> None:
    fleet.worker()
    published_at = time.monotonic()
    fleet.submit(1, countdown=4)

    fleet.wait_for_ends(1)

    assert time.monotonic() - published_at >= 3.9
    assert fleet.started() == {1: 1}


def test_key_prefix_holds_for_every_key(own_redis: RedisServer, programs: Programs) -> None:
    fleet = Fleet(own_redis, programs, prefix="mine:")
    fleet.submit(1, 2)
    fleet.broker.lpush("mine:celery", b"garbage")
    fleet.worker()

    fleet.wait_for_ends(2)
    wait_until(fleet.dead, 5, "the dead letter")

    assert [key for key in fleet.broker.scan_iter() if not key.startswith(b"mine:")] == []
    fleet.close()


def test_inspect_revoke_and_events_work_between_plain_and_ours(fleet: Fleet) -> None:
    worker = fleet.worker(OURS, "-E", is_social=True)
    for transport in (OURS, PLAIN):
        with Celery(set_as_current=False, broker=fleet.broker_url) as app:
            app.conf.broker_transport = transport or None
            [(name, stats)] = app.control.inspect(timeout=2).stats().items()
            assert stats["pool"]["max-concurrency"] == 2
            app.control.revoke(f"revoked-{transport}")
            assert app.control.ping(timeout=2) == [{name: {"ok": "pong"}}]
    fleet.submit(1, task_id=f"revoked-{OURS}")
    fleet.submit(2, task_id=f"revoked-{PLAIN}")
    fleet.submit(3)
    fleet.wait_for_ends(1)
    wait_until(lambda: fleet.n_unacked() == 0, 5, "all to be settled")

    assert fleet.ended() == {3: 1}
    assert worker.is_running()


def test_plain_and_our_workers_and_producers_share_a_queue(fleet: Fleet) -> None:
    workers = [fleet.worker(transport, lease_s=8.0) for transport in (PLAIN, OURS, PLAIN, OURS)]
    fleet.submit(*range(100), transport=PLAIN, lasts_s=0.01)
    fleet.submit(*range(100, 200), transport=OURS, lasts_s=0.01)

    fleet.wait_for_ends(200)
    wait_until(lambda: fleet.n_unacked() == 0, 5, "all to be settled")

    assert set(fleet.started().values()) == {1}
    assert all(worker.is_running() for worker in workers)


@pytest.mark.parametrize(("dying", "heir"), [(PLAIN, OURS), (OURS, PLAIN)], ids=["ours", "plain"])
def test_worker_gives_back_what_a_dead_one_of_the_other_kind_held(
    own_redis: RedisServer, programs: Programs, dying: str, heir: str
) -> None:
    fleet = Fleet(own_redis, programs, visibility_s=2.0)
    doomed = fleet.worker(dying, slots=1)
    fleet.submit(1, gate="gate")
    fleet.wait_for_start(1)

    doomed.kill()
    fleet.worker(heir)
    fleet.wait_for_start(1, times=2)
    fleet.effects.rpush("gate", 1)
    fleet.wait_for_ends(1)
    fleet.close()


def test_purge_and_length_see_what_lies_in_the_queue(fleet: Fleet) -> None:
    fleet.submit(1, 2, 3)
    fleet.submit(4, priority=9)

    with fleet.connection() as connection:
        n_waiting = connection.default_channel.queue_declare("celery", passive=True).message_count
        n_purged = connection.default_channel.queue_purge("celery")

    assert (n_waiting, n_purged) == (4, 4)
    assert fleet.broker.exists(f"celery{SEP}9") == 0


def test_worker_without_prefetch_takes_only_what_it_can_start(fleet: Fleet) -> None:
    fleet.worker(OURS, "--disable-prefetch", slots=2)
    fleet.submit(*range(6), gate="gate")
    wait_until(lambda: len(fleet.started()) == 2, 10, "two tasks to start")
    held = fleet.n_unacked(), fleet.n_waiting()

    fleet.effects.rpush("gate", *range(6))
    fleet.wait_for_ends(6)

    assert held == (2, 4)
    assert set(fleet.started().values()) == {1}

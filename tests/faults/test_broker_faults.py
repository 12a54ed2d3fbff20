"""A broker that is slow to answer, goes away, comes back, or comes back empty."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import pytest
import redis
from celery import Celery

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.jobs import LEASE_S, Engine, EngineStarter, check_ended_once
from support.processes import ROOT, Programs
from support.tcp_proxy import TcpProxy
from support.waiting import wait_until


def test_job_that_outlasts_the_lease_is_given_out_once(
    start_engine: EngineStarter, own_redis: RedisServer
) -> None:
    engine = start_engine(own_redis.url)
    workers = [engine.worker(), engine.worker()]
    job = engine.submit(gate=str(engine.gate()))
    engine.wait_for_start(job)

    over_s = time.monotonic() + 3 * LEASE_S
    wait_until(lambda: time.monotonic() > over_s, 30, "three leases to pass")
    with own_redis.client(1) as broker:
        n_held = broker.hlen("unacked")
    engine.gate().touch()
    ended = engine.wait_for(job)

    assert n_held == 1
    assert (ended.state, engine.outcomes(job)) == (JobState.SUCCEEDED, ["succeeded"])
    assert len(engine.effects.list("start")) == 1
    assert not any("delivery_ignored" in worker.output() for worker in workers)


def test_message_that_is_delivered_again_does_not_run_a_running_job_twice(
    start_engine: EngineStarter, own_redis: RedisServer
) -> None:
    engine = start_engine(own_redis.url)
    engine.worker()
    job = engine.submit(gate=str(engine.gate()))
    engine.wait_for_start(job)
    with own_redis.client(1) as broker:
        [record] = broker.hvals("unacked")
        broker.lpush("default", json.dumps(json.loads(record)[0]))

    second = engine.worker()
    second.wait_for_output("delivery_ignored")
    engine.gate().touch()
    ended = engine.wait_for(job)

    assert (ended.state, engine.outcomes(job)) == (JobState.SUCCEEDED, ["succeeded"])
    assert len(engine.effects.list("start")) == 1


def _oldest_unacked_s(broker: redis.Redis) -> float:
    oldest = broker.zrange("unacked_index", 0, 0, withscores=True)
    return time.time() - oldest[0][1] if oldest else 0.0


def test_job_goes_on_through_a_dropped_broker_connection_and_is_not_run_twice(
    start_engine: EngineStarter, own_redis: RedisServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(own_redis.port)
    engine = start_engine(own_redis.url)
    through_proxy = {"PYNOMALY_REDIS__URL": f"redis://127.0.0.1:{proxy.port}"}
    first = engine.worker(env=through_proxy)
    job = engine.submit(gate=str(engine.gate()))
    engine.wait_for_start(job)
    second = engine.worker()

    proxy.reset()
    first.wait_for_output("broker_connection_lost")
    lease_end_s = time.monotonic() + 2 * LEASE_S
    wait_until(lambda: time.monotonic() > lease_end_s, 30, "two leases to pass")
    engine.gate().touch()
    ended = engine.wait_for(job)
    after = engine.wait_for(engine.submit())

    assert (ended.state, engine.outcomes(job)) == (JobState.SUCCEEDED, ["succeeded"])
    assert len(engine.effects.list("start", job.id)) == 1
    assert "delivery_ignored" not in first.output() + second.output()
    assert after.state is JobState.SUCCEEDED
    assert first.is_running()
    with own_redis.client(1) as broker:
        wait_until(lambda: not broker.hlen("unacked"), 10, "the message to be acknowledged by its tag")


@pytest.mark.parametrize("empty", [False, True], ids=["with its data", "empty"])
def test_every_job_ends_once_when_redis_is_killed_and_comes_back(
    engine: Engine, own_redis: RedisServer, empty: bool
) -> None:
    _kill_redis_under_load(engine, own_redis, empty=empty, n_jobs=60, n_kills=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("empty", [False, True], ids=["with its data", "empty"])
def test_every_one_of_500_jobs_ends_once_when_redis_is_killed_ten_times(
    engine: Engine, own_redis: RedisServer, empty: bool
) -> None:
    _kill_redis_under_load(engine, own_redis, empty=empty, n_jobs=500, n_kills=10)


def _kill_redis_under_load(
    engine: Engine, server: RedisServer, *, empty: bool, n_jobs: int, n_kills: int
) -> None:
    workers = [engine.worker(slots=2) for _ in range(2)]
    jobs = []

    for n in range(n_kills):
        jobs += engine.platform.submit_many(
            "act", [engine.request(lasts_s=0.05) for _ in range(n_jobs // n_kills)]
        )
        n_wanted = n * n_jobs // n_kills + n_jobs // n_kills // 3
        wait_until(lambda n=n_wanted: len(engine.effects.list("end")) >= n, 60, f"{n_wanted} jobs to be done")
        server.restart(empty=empty)
    engine.wait_for_all(jobs, 120)

    assert all(worker.is_running() for worker in workers)
    how = "with its data" if empty is False else "empty"
    check_ended_once(engine, jobs, f"redis killed {n_kills} times, restarted {how}")


def test_control_without_rescue_jobs_are_lost_with_an_empty_redis(
    start_engine: EngineStarter, own_redis: RedisServer
) -> None:
    engine = start_engine(own_redis.url, env={"PYNOMALY_WORKERS__RUN_MAINTENANCE": "false"})
    engine.worker()
    jobs = engine.platform.submit_many("act", [engine.request(lasts_s=0.1) for _ in range(30)])
    wait_until(lambda: len(engine.effects.list("end")) >= 5, 30, "the first jobs to be done")

    own_redis.restart(empty=True)
    later = engine.wait_for(engine.submit())

    assert later.state is JobState.SUCCEEDED  # the worker is back, and has nothing else to do
    unfinished = [job for job in jobs if not engine.job(job).state.is_final]
    assert len(unfinished) > 5


def test_job_submitted_while_the_broker_is_down_is_accepted_quickly_and_runs_when_it_is_back(
    engine: Engine, own_redis: RedisServer
) -> None:
    worker = engine.worker()
    own_redis.kill()

    began_s = time.monotonic()
    jobs = [engine.submit() for _ in range(5)]
    took_s = time.monotonic() - began_s
    own_redis.restart()
    ended = engine.wait_for_all(jobs, 30)

    assert took_s < 5
    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert len(engine.effects.list("start")) == 5
    assert worker.is_running()


def test_job_submitted_while_the_broker_does_not_answer_is_accepted_within_a_timeout(
    engine: Engine, own_redis: RedisServer
) -> None:
    engine.submit()
    own_redis.signal(signal.SIGSTOP)

    began_s = time.monotonic()
    job = engine.submit()
    took_s = time.monotonic() - began_s
    own_redis.signal(signal.SIGCONT)
    engine.worker()

    assert took_s < engine.settings.redis.socket_timeout_s + 3
    assert engine.wait_for(job).state is JobState.SUCCEEDED


def test_control_plain_celery_runs_a_task_twice_when_a_second_worker_sees_it_unacknowledged_for_too_long(
    programs: Programs, own_redis: RedisServer
) -> None:
    env = {
        "CELERY_BROKER_URL": f"{own_redis.url}/1",
        "CELERY_RESULT_BACKEND": f"{own_redis.url}/2",
        "PYTHONPATH": str(ROOT / "tests"),
    }
    programs.celery_worker("support.tiny_celery_app", "-c", "1", "-l", "INFO", env=env)
    with Celery(broker=env["CELERY_BROKER_URL"], backend=env["CELERY_RESULT_BACKEND"]) as app:
        app.send_task("tiny.wait_for", ("gate",))
    with own_redis.client(2) as backend, own_redis.client(1) as broker:
        wait_until(lambda: backend.get("gate:starts") == b"1", 30, "the task to start")
        wait_until(lambda: _oldest_unacked_s(broker) > 1.2, 30, "the visibility timeout to pass")

        programs.celery_worker("support.tiny_celery_app", "-c", "1", "-l", "INFO", env=env)

        wait_until(lambda: backend.get("gate:starts") == b"2", 30, "the same task to start again")
        backend.rpush("gate", "go", "go")

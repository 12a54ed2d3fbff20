"""A job store that goes away and comes back, under load; children forked beside threads that use it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from pynomaly_tasks.core.job import DeadReason, JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import StoreUnavailable
from pynomaly_tasks.store.store import Store
from support.jobs import Engine, EngineStarter, check_ended_once
from support.raw_messages import expired_message, raw_message
from support.servers import PostgresCluster
from support.stores import add
from support.transport import SEP
from support.waiting import wait_until


@pytest.fixture
def engine(start_engine: EngineStarter, own_redis: RedisServer, own_postgres: PostgresCluster) -> Engine:
    return start_engine(own_redis.url, own_postgres.new_database())


def test_no_job_is_lost_or_run_twice_when_postgresql_is_killed_under_load(
    engine: Engine, own_postgres: PostgresCluster
) -> None:
    _kill_the_store_under_load(engine, own_postgres, n_jobs=60, n_kills=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_job_of_500_is_lost_or_run_twice_when_postgresql_is_killed_ten_times(
    engine: Engine, own_postgres: PostgresCluster
) -> None:
    _kill_the_store_under_load(engine, own_postgres, n_jobs=500, n_kills=10)


def _kill_the_store_under_load(
    engine: Engine, postgres: PostgresCluster, *, n_jobs: int, n_kills: int
) -> None:
    workers = [engine.worker(slots=2) for _ in range(2)]
    jobs = []

    for n in range(n_kills):
        jobs += engine.platform.submit_many(
            "act", [engine.request(lasts_s=0.1) for _ in range(n_jobs // n_kills)]
        )
        n_wanted = n * n_jobs // n_kills + n_jobs // n_kills // 3
        wait_until(lambda n=n_wanted: len(engine.effects.list("end")) >= n, 60, f"{n_wanted} jobs to be done")
        postgres.restart()
        wait_until(lambda: _answers(engine), 30, "the store to answer again")
    engine.wait_for_all(jobs, 120)

    assert all(worker.is_running() for worker in workers)
    check_ended_once(engine, jobs, f"PostgreSQL killed {n_kills} times")


def _answers(engine: Engine) -> bool:
    try:
        engine.platform.store.count_by_state()
    except StoreUnavailable:
        return False
    return True


def test_job_that_ends_while_the_store_is_away_is_settled_when_it_is_back(
    engine: Engine, own_postgres: PostgresCluster
) -> None:
    worker = engine.worker()
    job = engine.submit(gate=str(engine.gate()))
    engine.wait_for_start(job)

    own_postgres.stop()
    worker.wait_for_output("progress_not_written")
    engine.gate().touch()
    worker.wait_for_output("settling_postponed")
    worker.wait_for_output("leases_not_renewed")
    own_postgres.restart()
    wait_until(lambda: _answers(engine), 30, "the store to answer again")
    ended = engine.wait_for(job)

    assert (ended.state, engine.outcomes(job)) == (JobState.SUCCEEDED, ["succeeded"])
    assert len(engine.effects.list("start")) == 1


# Python 3.12 warns of what this test is about.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_child_forked_while_threads_use_sqlite_can_use_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('forks') / 'jobs.sqlite3'}")
    store.migrate()
    job = add(store)
    stopped = threading.Event()

    def look() -> None:
        while not stopped.is_set():
            store.find_cancelled("w1")

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        codes = [_forked(lambda: store.get_job(job.id)) for _ in range(40)]
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
        store.close()

    assert codes == [0] * 40


def _forked(call: object, timeout_s: float = 10.0) -> int:
    """Call in a forked child; its exit code, or -9 when it hung."""
    assert callable(call)
    pid = os.fork()
    if pid == 0:
        try:
            call()
        finally:
            os._exit(0)
    end_s = time.monotonic() + timeout_s

    def ended() -> tuple[int, int] | None:
        if time.monotonic() > end_s:
            os.kill(pid, signal.SIGKILL)
        found = os.waitpid(pid, os.WNOHANG)
        return found if found[0] else None

    _, status = wait_until(ended, timeout_s + 5, "the child to end", every_s=0.001)
    return os.waitstatus_to_exitcode(status)


def test_what_cannot_be_kept_while_the_store_is_away_stays_in_the_broker_until_it_is_back(
    engine: Engine, own_redis: RedisServer, own_postgres: PostgresCluster
) -> None:
    worker = engine.worker()
    stranger = raw_message(task="pynomaly.tasks.nobody\0knows")
    stranger["headers"]["id"] += "\0"
    expired = expired_message(effects=str(engine.effects.path))

    with own_redis.client(1) as broker:
        own_postgres.stop()
        broker.lpush("default", b"\xff garbage", json.dumps(stranger), json.dumps(expired))
        wait_until(lambda: broker.llen(f"default{SEP}dead") == 3, 60, "the broker to keep all three")
        own_postgres.restart()
        letters = engine.wait_for_letters(3)
        wait_until(lambda: not broker.exists(f"default{SEP}dead"), 10, "the broker to keep them no more")

    assert worker.is_running()
    assert [(letter.reason, letter.kind) for letter in letters] == [
        (DeadReason.UNREADABLE, None),
        (DeadReason.UNKNOWN_TASK, "pynomaly.tasks.nobody\N{REPLACEMENT CHARACTER}knows"),
        (DeadReason.DEADLINE_PASSED, "pynomaly.tasks.act"),
    ]
    assert bytes(letters[0].payload) == b"\xff garbage"
    assert json.loads(letters[1].payload)["headers"]["id"] == stranger["headers"]["id"]

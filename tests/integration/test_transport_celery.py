"""What Celery does above its broker, on our transport: canvas, retries, revoke, events, control, pools, beat.

Celery's own integration suite is in tests/faults.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import ChordError, TaskRevokedError, TimeLimitExceeded
from kombu import Exchange

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Program, Programs
from support.transport import OURS, SEP
from support.waiting import wait_until


class Site:
    """A broker, results and notes on one Redis; workers of `support.behaviours_app`; a client's application."""

    def __init__(self, server: RedisServer, programs: Programs, *, results: str | None = None) -> None:
        self.programs = programs
        self.broker = server.client(0)
        self.notes = server.client(2)
        self.env = {
            "BEHAVIOURS_BROKER": f"{server.url}/0",
            "BEHAVIOURS_RESULTS": results or f"{server.url}/1",
            "BEHAVIOURS_NOTES": f"{server.url}/2",
            "BEHAVIOURS_LEASE_S": "2",
            "PYTHONPATH": os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")]),
        }
        self.app = Celery(
            "client",
            broker=self.env["BEHAVIOURS_BROKER"],
            backend=self.env["BEHAVIOURS_RESULTS"],
            set_as_current=False,
        )
        self.app.conf.update(
            broker_transport=OURS,
            task_create_missing_queues=True,
            task_send_sent_event=True,
            result_extended=True,
        )

    def close(self) -> None:
        self.app.close()
        self.broker.close()
        self.notes.close()

    def worker(self, *arguments: str, pool: str = "prefork", slots: int = 2) -> Program:
        return self.programs.celery_worker(
            "support.behaviours_app", "-P", pool, "-c", str(slots), "-l", "INFO", *arguments, env=self.env
        )

    def sig(self, name: str, *args: Any, **options: Any) -> Any:
        return self.app.signature(name, args=args, app=self.app, **options)

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(name, args, **options)

    def number(self, key: str) -> int:
        return int(self.notes.get(key) or 0)  # type: ignore[arg-type]  # not async

    def wait_for(self, key: str, number: int, timeout_s: float = 20.0) -> None:
        wait_until(lambda: self.number(key) >= number, timeout_s, f"{key} to be {number}")

    def wait_for_all_settled(self) -> None:
        wait_until(lambda: not self.broker.exists("unacked"), 10, "all messages to be settled")

    def only_answer(self, answers: Any) -> Any:
        [answer] = (answers or {}).values()
        return answer


@pytest.fixture(scope="module")
def shared(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One prefork worker for all tests that leave it as it was."""
    programs = Programs(tmp_path_factory.mktemp("programs"))
    site = Site(redis_server, programs)
    try:
        site.worker("-n", "shared@%h")
        yield site
    finally:
        programs.close()
        site.close()


@pytest.fixture
def site(own_redis: RedisServer, programs: Programs) -> Iterator[Site]:
    """For one test alone; it starts its workers."""
    site = Site(own_redis, programs)
    yield site
    programs.close()
    site.close()


# ---- canvas


def test_chains_groups_and_chords_nest(shared: Site) -> None:
    add, total = shared.sig("add", 1, 2), shared.sig("total")
    one = chain(add, shared.sig("add", 10), shared.sig("add", 100))
    many = group(shared.sig("add", n, n) for n in range(20))
    nested = chord(
        [chord([shared.sig("add", n, 1) for n in range(3)], total.clone()), chain(add, shared.sig("add", 4))],
        chain(total.clone(), shared.sig("add", 1000)),
    )

    results = [canvas.apply_async() for canvas in (one, many, nested)]

    assert [result.get(timeout=30) for result in results] == [113, [2 * n for n in range(20)], 1013]
    shared.wait_for_all_settled()


def test_chord_of_a_failing_task_fails_and_calls_its_error_callback(shared: Site) -> None:
    body = shared.sig("total").on_error(shared.sig("note_error", "chord-error"))

    result = chord([shared.sig("add", 1, 1), shared.sig("fail")], body).apply_async()

    wait_until(result.ready, 30, "the chord to fail")
    assert isinstance(result.result, ChordError)
    wait_until(lambda: shared.notes.llen("chord-error"), 10, "the error callback")
    assert shared.notes.lrange("chord-error", 0, -1) == [b"ChordError"]


# ---- retries and times


def test_retries_are_made_and_end(shared: Site) -> None:
    succeeds, exhausts = shared.send("retry_until", 2), shared.send("retry_until", 9)
    by_itself = shared.send("retry_by_itself", "tries")

    assert succeeds.get(timeout=30) == 2
    with pytest.raises(LookupError, match="try 3"):
        exhausts.get(timeout=30)
    with pytest.raises(LookupError, match="every time"):
        by_itself.get(timeout=30)
    assert shared.number("tries") == 3
    shared.wait_for_all_settled()


def test_countdown_is_waited_for_and_what_expired_is_not_run(shared: Site) -> None:
    sent_at = time.monotonic()

    later = shared.send("add", 1, 1, countdown=1.5)
    expired = shared.send("count", "expired", countdown=0.5, expires=0.1)

    assert later.get(timeout=20) == 2
    assert time.monotonic() - sent_at >= 1.4
    shared.wait_for_all_settled()
    assert shared.number("expired") == 0
    assert expired.state == "REVOKED"


# ---- control and events


def test_revoked_task_is_not_started_and_a_running_one_is_stopped(shared: Site) -> None:
    waits = shared.send("count", "revoked", countdown=1.0)
    runs = shared.send("wait_late", "terminated")
    shared.wait_for("terminated-starts", 1)

    shared.app.control.revoke(waits.id, reply=True, timeout=5, limit=1)
    shared.app.control.revoke(runs.id, terminate=True, signal="SIGKILL", reply=True, timeout=5, limit=1)

    for result in (waits, runs):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=20)
    shared.wait_for_all_settled()
    assert shared.number("revoked") == 0
    assert (shared.number("terminated-starts"), shared.number("terminated-ends")) == (1, 0)


def test_inspect_sees_what_a_worker_does(shared: Site) -> None:
    inspect = shared.app.control.inspect(timeout=5, limit=1)
    shared.send("add", 1, 1, countdown=4)
    wait_until(lambda: shared.only_answer(inspect.scheduled()), 10, "the worker to hold the one for later")
    for _ in range(4):
        shared.send("wait_late", "seen")
    shared.wait_for("seen-starts", 2)
    wait_until(lambda: shared.only_answer(inspect.reserved()), 10, "the worker to hold two more")

    active, reserved = shared.only_answer(inspect.active()), shared.only_answer(inspect.reserved())
    scheduled, stats = shared.only_answer(inspect.scheduled()), shared.only_answer(inspect.stats())
    shared.notes.rpush("seen-gate", *range(4))
    shared.wait_for("seen-ends", 4)
    shared.app.control.revoke(scheduled[0]["request"]["id"], reply=True, timeout=5, limit=1)

    assert [task["name"] for task in active] == ["wait_late"] * 2
    assert "wait_late" in {task["name"] for task in reserved}
    assert [task["request"]["name"] for task in scheduled] == ["add"]
    assert stats["pool"]["max-concurrency"] == 2
    assert stats["broker"]["transport"] == "redis"
    assert shared.only_answer(inspect.ping()) == {"ok": "pong"}


def test_control_changes_queues_rates_and_the_pool(shared: Site) -> None:
    def ask(command: str, **arguments: Any) -> Any:
        [answer] = shared.app.control.broadcast(command, arguments=arguments, reply=True, timeout=10, limit=1)
        return next(iter(answer.values()))

    assert "ok" in ask("add_consumer", queue="extra")
    assert shared.send("add", 2, 3, queue="extra").get(timeout=20) == 5
    assert "ok" in ask("cancel_consumer", queue="extra")
    stays = shared.send("count", "stays", queue="extra")
    assert "ok" in ask("rate_limit", task_name="count", rate_limit="1000/m")
    assert "ok" in ask("pool_grow", n=1)
    wait_until(lambda: len(ask("stats")["pool"]["processes"]) == 3, 10, "a third process")
    assert "ok" in ask("pool_shrink", n=1)
    assert shared.send("add", 1, 1).get(timeout=20) == 2
    assert shared.broker.llen("extra") == 1
    assert shared.number("stays") == 0
    assert stays.state == "PENDING"


def test_events_tell_the_life_of_a_task(shared: Site) -> None:
    seen: dict[str, list[str]] = {}
    wanted = {"good": "task-succeeded", "bad": "task-failed"}
    ready = threading.Event()

    def note(event: dict[str, Any]) -> None:
        ready.set()
        if "uuid" in event:
            seen.setdefault(event["uuid"], []).append(event["type"])

    with shared.app.connection_for_read() as connection:
        receiver = shared.app.events.Receiver(connection, handlers={"*": note})
        listener = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None})
        listener.start()
        try:
            assert ready.wait(10), "the worker sends a heartbeat every two seconds"
            shared.send("add", 1, 1, task_id="good")
            shared.send("fail", task_id="bad")
            wait_until(lambda: all(wanted[task] in seen.get(task, []) for task in wanted), 20, "the ends")
        finally:
            receiver.should_stop = True
            listener.join(10)

    assert not listener.is_alive()
    assert Counter(seen["good"]) == Counter(["task-sent", "task-received", "task-started", "task-succeeded"])
    assert set(seen["bad"]) == {"task-sent", "task-received", "task-started", "task-failed"}


# ---- settling


def test_rejected_task_comes_again_or_is_kept(shared: Site) -> None:
    again, kept = shared.send("refuse", True), shared.send("refuse", False)

    assert again.get(timeout=20) is True
    wait_until(lambda: shared.broker.llen(f"celery{SEP}dead"), 10, "the dead letter")
    letter = json.loads(shared.broker.lindex(f"celery{SEP}dead", 0))  # type: ignore[arg-type]  # not async

    assert json.loads(base64.b64decode(letter["raw"]))["headers"]["id"] == kept.id
    shared.wait_for_all_settled()


def test_failed_and_stopped_tasks_settle_their_messages(shared: Site) -> None:
    failed, stopped = shared.send("fail_unacknowledged"), shared.send("too_long")

    with pytest.raises(LookupError, match="on purpose"):
        failed.get(timeout=20)
    with pytest.raises(TimeLimitExceeded):
        stopped.get(timeout=20)
    shared.wait_for_all_settled()
    assert shared.broker.llen("celery") == 0


def test_task_whose_child_process_is_killed_comes_again(shared: Site) -> None:
    assert shared.send("die_once").get(timeout=30) is True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT])
def test_task_of_a_worker_that_dies_comes_again_if_it_is_acknowledged_late(
    site: Site, how: signal.Signals
) -> None:
    first = site.worker()
    site.send("wait_early", "early")
    site.send("wait_late", "late")
    site.wait_for("early-starts", 1)
    site.wait_for("late-starts", 1)

    if how is signal.SIGKILL:
        first.kill()
    else:
        first.signal_leader(how)
        wait_until(lambda: not first.is_running(), 20, "the worker to end")
    site.worker()
    site.notes.rpush("early-gate", 1, 1)
    site.notes.rpush("late-gate", 1, 1)
    site.wait_for("late-starts", 2)
    site.wait_for_all_settled()

    assert (site.number("early-starts"), site.number("late-starts")) == (1, 2)
    assert site.broker.llen("celery") == 0


# ---- pools, results, many workers


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_other_pools_run_a_chord_and_end_when_they_are_told(site: Site, pool: str) -> None:
    worker = site.worker(pool=pool)

    result = chord([site.sig("add", n, n) for n in range(5)], site.sig("total")).apply_async()
    value = result.get(timeout=30)
    worker.signal_leader(signal.SIGTERM)
    wait_until(lambda: not worker.is_running(), 20, "the worker to end")

    assert value == 20
    assert not site.broker.exists("unacked")


def test_results_come_by_message_and_everybody_gets_a_broadcast(
    own_redis: RedisServer, programs: Programs
) -> None:
    site = Site(own_redis, programs, results="rpc://")
    site.worker(pool="threads")
    site.worker(pool="threads")

    values = [result.get(timeout=20) for result in [site.send("add", n, 1) for n in range(10)]]
    everybody = Exchange("everybody", "fanout")
    site.send("count", "everybody", exchange=everybody, routing_key="celery", declare=[everybody])
    site.wait_for("everybody", 2)
    site.send("count", "after").forget()
    site.wait_for("after", 1)

    assert values == list(range(1, 11))
    assert site.number("everybody") == 2
    programs.close()
    site.close()


def test_children_are_replaced_and_the_pool_grows_with_its_load(site: Site) -> None:
    site.worker("--max-tasks-per-child", "1", "--autoscale", "3,1")

    processes = [site.send("process_id").get(timeout=20) for _ in range(3)]
    for _ in range(3):
        site.send("wait_late", "k")
    site.wait_for("k-starts", 3)
    site.notes.rpush("k-gate", *range(3))
    site.wait_for("k-ends", 3)

    assert len(set(processes)) == 3


def test_beat_sends_purge_empties_and_flower_sees(site: Site, tmp_path: Path) -> None:
    def celery(*arguments: str, **options: Any) -> Program:
        return site.programs.python(
            "-m", "celery", "-A", "support.behaviours_app", *arguments, env=site.env, **options
        )

    for number in range(3):
        site.send("add", number, number, queue="other")
    purge = celery("purge", "-f", "-Q", "other", name="purge")
    wait_until(lambda: not purge.is_running(), 20, "purge to end")
    port = find_free_port()
    site.env["FLOWER_UNAUTHENTICATED_API"] = "true"
    celery("flower", f"--port={port}", "--address=127.0.0.1", name="flower", ready="Connected to")
    worker = site.worker()
    beat = celery("beat", "-s", str(tmp_path / "schedule"), name="beat")
    site.wait_for("ticks", 3)
    beat.kill()
    done = site.send("add", 1, 1)
    done.get(timeout=20)

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=10) as answer:
            return json.load(answer)

    wait_until(lambda: ask("tasks").get(done.id, {}).get("state") == "SUCCESS", 15, "Flower to see the task")
    worker.kill()
    site.send("add", 1, 1)
    lengths = {queue["name"]: queue["messages"] for queue in ask("queues/length")["active_queues"]}

    assert "Purged 3 messages" in purge.output()
    assert site.broker.llen("other") == 0
    assert lengths["celery"] == 1

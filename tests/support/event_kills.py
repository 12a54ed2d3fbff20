"""A run in which relay, consumers and the log's server are killed in turn under a load of jobs."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import redis
from sqlalchemy import delete, insert

from pynomaly_tasks.consumers.groups import OURS
from pynomaly_tasks.core.job import Job
from pynomaly_tasks.errors import JobAlreadyFinal
from pynomaly_tasks.realtime.streams import STREAMS
from pynomaly_tasks.store.tables import audit_log, outbox
from support.event_checker import ALERTED, HOOKED, TOPICS, EventChecker, Row, Verdict
from support.jobs import Engine
from support.processes import Program
from support.threads import beside
from support.waiting import wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#: Short, so that what takes a lease or a pause in production takes a moment here.
ENV = {
    "PYNOMALY_EVENTS__BACKOFF_S": "0.1",
    "PYNOMALY_EVENTS__BACKOFF_MAX_S": "1",
    "PYNOMALY_OUTBOX__LEASE_S": "2",
    "PYNOMALY_OUTBOX__POLL_S": "0.3",
    "PYNOMALY_OUTBOX__BACKOFF_MAX_S": "1",
    "PYNOMALY_KAFKA__TIMEOUT_S": "3",
    "PYNOMALY_LIVE__STREAM_LENGTH": "1000000",
    "PYNOMALY_ALERTS__CHANNELS": '["log"]',
    "PYNOMALY_ALERTS__EVENT_TYPES": json.dumps(ALERTED),
}


class Hook:
    """Receives webhooks; its ids are what was delivered."""

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                hook.ids[self.headers["webhook-id"]] += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the base class's name

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def env(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server.server_port}/hook"
        endpoint = {"url": url, "secret": SECRET, "event_types": HOOKED}
        return {"PYNOMALY_WEBHOOKS__ENDPOINTS": json.dumps({"hook": endpoint})}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


class EventKillRun:
    """Jobs, and kills in turn."""

    def __init__(
        self,
        engine: Engine,
        server: Any,
        hook: Hook,
        *,
        n_jobs: int,
        n_kills: int,
        seed: int,
    ) -> None:
        """``server`` keeps the log: it can `kill` itself and `restart`."""
        self.engine = engine
        self.server = server
        self.hook = hook
        self.n_jobs = n_jobs
        self.n_kills = n_kills
        self.rng = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.processes: dict[str, Program] = {}
        self.jobs: list[Job] = []
        self.n_repeated = 0
        self._never = threading.Event()

    def start(self) -> None:
        """The job worker, the relay and a member of each group."""
        self.engine.worker(app="support.full_worker", slots=2)
        for name in ("relay", *OURS):
            self._start(name)

    def _start(self, name: str) -> None:
        module = "workers.relay" if name == "relay" else f"workers.consumer_{name}"
        self.processes[name] = self.engine.programs.python("-m", module, name=name, env=self.engine.env)

    def run(self) -> None:
        """Kill while jobs are submitted and run; then wait until nothing is on its way."""
        with self._submitting() as submitted:
            targets: list[str] = []
            while sum(self.kills.values()) < self.n_kills:
                if not targets:
                    targets = self.rng.sample(["relay", *OURS, "log"], len(OURS) + 2)
                self._kill(targets.pop())
            submitted.set()
        self._drain(150.0 + self.n_jobs / 5)

    @contextmanager
    def _submitting(self) -> Iterator[threading.Event]:
        """Submit over the time of the kills, and the rest at once when they are over."""
        hurry = threading.Event()

        def submit() -> None:
            for number in range(self.n_jobs):
                self.jobs.append(self._submit(number))
                hurry.wait(self.rng.uniform(0.0, 2.0 * 2.5 * self.n_kills / self.n_jobs))

        with beside(submit, timeout_s=600):
            try:
                yield hurry
            finally:
                hurry.set()

    def _submit(self, number: int) -> Job:
        kind = number % 10
        if kind == 0:
            return self.engine.submit({"max_retries": 0}, fail_attempts=1, retryable=False)
        if kind == 1:
            return self.engine.submit({"max_retries": 2, "backoff_s": 0.05}, fail_attempts=1)
        if kind == 2:
            return self.engine.submit({"max_retries": 0}, fail_attempts=1)
        job = self.engine.submit({"ordering_key": f"k{number % 5}"} if kind == 3 else None)
        if kind == 4:
            with suppress(JobAlreadyFinal):  # it was quick
                self.engine.platform.cancel(job.id, "as it was told")
        return job

    def _kill(self, name: str) -> None:
        if name == "log":
            self.server.kill()
            self._pause(0.2, 1.5)
            self.server.restart()
        else:
            self.processes[name].kill()
            self._start(name)
            ready = "relay_leads" if name == "relay" else "group_joined"
            self.processes[name].wait_for_output(ready, 60.0)
        self.kills[name] += 1
        self._pause(0.3, 2.0)

    def _pause(self, least_s: float, most_s: float) -> None:
        self._never.wait(self.rng.uniform(least_s, most_s))

    def _drain(self, timeout_s: float) -> None:
        """Until every job has ended, also those that alerts and webhooks made of the last events."""

        def drained() -> bool:
            for name, process in self.processes.items():
                assert process.is_running(), f"{name} ended:\n{process.log_tail(40)}"
            return self._is_quiet() and self._is_quiet()

        wait_until(drained, timeout_s, "jobs, outbox and groups to be done", every_s=0.2)

    def _is_quiet(self) -> bool:
        store = self.engine.platform.store
        open_jobs = sum(n for (_, state), n in store.count_by_state().items() if not state.is_final)
        return not open_jobs and not store.get_outbox_lag().n_unsent and not asyncio.run(self._lag())

    async def _lag(self) -> int:
        reader = self.engine.platform.event_reader()
        lags = [await reader.lag(group, ["audit_events"] if group == "audit" else TOPICS) for group in OURS]
        return sum(sum(lag.values()) for lag in lags)

    def check(self) -> Verdict:
        """Set what is there beside what should be."""
        checker = EventChecker(self.engine, self.jobs, self.hook.ids.keys())
        verdict = checker.check()
        self.n_repeated = checker.n_repeated
        return verdict

    def rows(self) -> list[Row]:
        """Events as the store's transactions wrote them."""
        return EventChecker(self.engine, self.jobs, ()).rows()

    def spoil(self) -> None:
        """Do what must not happen, so that the checker shows that it sees it."""
        with redis.Redis.from_url(self.engine.settings.redis.streams()) as client:
            (gone, _), (_, twice) = client.xrange(STREAMS[0], count=2)
            client.xdel(STREAMS[0], gone)
            client.xadd(STREAMS[0], twice)
        store = self.engine.platform.store
        with store._db.writing() as connection:
            lost, first = self.rows()[:2]
            connection.execute(delete(audit_log))
            connection.execute(delete(outbox).where(outbox.c.id == first.number))
            connection.execute(insert(outbox).values(
                event_id="never-sent", topic=lost.topic, key=lost.key, type=lost.type, payload=lost.payload,
                created_at=0.0, sent_at=0.0,
            ))  # fmt: skip

    def report(self, seed: int, duration_s: float) -> str:
        """The seed, the kills and the counts."""
        rows = self.rows()
        kinds = Counter(row.type for row in rows)
        return (
            f"\nseed {seed}: {self.n_jobs} jobs, {sum(self.kills.values())} kills "
            f"({', '.join(f'{name} {n}' for name, n in sorted(self.kills.items()))}) in {duration_s:.0f} s; "
            f"{len(rows)} events ({', '.join(f'{name} {n}' for name, n in sorted(kinds.items()))}), "
            f"{self.n_repeated} repeated in the topics"
        )


def run_and_check(run: EventKillRun, seed: int) -> Callable[[], dict[str, Any]]:
    """Run, print the counts, and give the problems found."""
    begun_s = time.monotonic()
    run.start()
    run.run()
    verdict = run.check()
    print(run.report(seed, time.monotonic() - begun_s))
    return verdict.problems

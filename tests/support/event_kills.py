"""A run in which relay, consumers and the log's server are killed in turn under a load of jobs, and its checker.

The checker believes nobody: it reads the topics themselves, and sets what it finds beside the rows of
the store, the live streams of Redis, and what the receiver of webhooks was sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import redis
from sqlalchemy import delete, insert, select

from pynomaly_tasks.consumers.groups import OURS
from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.errors import JobAlreadyFinal
from pynomaly_tasks.events.ports import StoredRecord
from pynomaly_tasks.events.replay import ReplayRange, read_all
from pynomaly_tasks.realtime.streams import STREAMS
from pynomaly_tasks.store.tables import audit_log, outbox
from support.jobs import Engine
from support.processes import Program
from support.waiting import wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOPICS = ("job_events", "anomaly_events", "system_events", "audit_events")
ALERTED = ("job.failed", "job.dead_lettered")
HOOKED = ("job.failed", "job.cancelled")
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
_TERMINAL = {
    JobState.SUCCEEDED: "job.completed",
    JobState.FAILED: "job.failed",
    JobState.CANCELLED: "job.cancelled",
    JobState.DEAD: "job.dead_lettered",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One event as the store's transaction wrote it."""

    number: int
    event_id: str
    topic: str
    key: str
    type: str
    payload: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What is wrong; every field must be empty."""

    unfinished_jobs: list[str] = field(default_factory=list)
    not_in_topic: list[str] = field(default_factory=list)  #: written by the store
    phantoms: list[str] = field(default_factory=list)  #: in a topic, written by nobody
    changed_repetitions: list[str] = field(default_factory=list)  #: of one id, with other content
    reordered_keys: list[str] = field(default_factory=list)
    wrong_stories: list[str] = field(default_factory=list)  #: jobs whose events do not tell what happened
    not_applied: dict[str, list[str]] = field(default_factory=dict)  #: by group
    applied_twice: dict[str, list[str]] = field(default_factory=dict)
    applied_out_of_order: dict[str, list[str]] = field(default_factory=dict)
    dashboard_differs: list[str] = field(default_factory=list)  #: jobs
    dead_letters: list[str] = field(default_factory=list)

    def problems(self) -> dict[str, Any]:
        """Only what is not empty."""
        found = {name: getattr(self, name) for name in self.__slots__}
        for name in ("not_applied", "applied_twice", "applied_out_of_order"):
            found[name] = {group: what for group, what in found[name].items() if what}
        return {name: what for name, what in found.items() if what}


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
        workers: Sequence[str] = (),
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
        self._drain(60.0 + self.n_jobs / 5)

    @contextmanager
    def _submitting(self) -> Iterator[threading.Event]:
        """Submit over the time of the kills, and the rest at once when they are over."""
        hurry, errors = threading.Event(), []

        def submit() -> None:
            try:
                for number in range(self.n_jobs):
                    self.jobs.append(self._submit(number))
                    hurry.wait(self.rng.uniform(0.0, 2.0 * 2.5 * self.n_kills / self.n_jobs))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=submit)
        thread.start()
        try:
            yield hurry
        finally:
            hurry.set()
            thread.join(600)
        if errors:
            raise errors[0]

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
        verdict = Verdict()
        rows = self._rows()
        records = {topic: self._records(topic) for topic in (*TOPICS, "dead_letter_events")}
        verdict.dead_letters = [str(one) for one in records["dead_letter_events"]]
        stories = self._check_topics(verdict, rows, records)
        jobs = {job_id: self.engine.platform.store.get_job(job_id) for job_id in self._job_ids()}
        self._check_jobs(verdict, jobs, stories)
        self._check_dashboard(verdict, rows, jobs)
        self._check_audit(verdict, rows)
        self._check_alerts(verdict, rows, jobs)
        self._check_webhooks(verdict, rows, jobs)
        return verdict

    def spoil(self) -> None:
        """Do what must not happen, so that the checker shows that it sees it."""
        with redis.Redis.from_url(self.engine.settings.redis.streams()) as client:
            (gone, _), (_, twice) = client.xrange(STREAMS[0], count=2)
            client.xdel(STREAMS[0], gone)
            client.xadd(STREAMS[0], twice)
        store = self.engine.platform.store
        with store._db.writing() as connection:
            lost, first = self._rows()[:2]
            connection.execute(delete(audit_log))
            connection.execute(delete(outbox).where(outbox.c.id == first.number))
            connection.execute(insert(outbox).values(
                event_id="never-sent", topic=lost.topic, key=lost.key, type=lost.type, payload=lost.payload,
                created_at=0.0, sent_at=0.0,
            ))  # fmt: skip

    def _rows(self) -> list[Row]:
        names = ("number", "event_id", "topic", "key", "type", "payload")
        query = select(*(outbox.c[name] for name in ("id", *names[1:]))).order_by(outbox.c.id)
        with self.engine.platform.store._db.reading() as connection:
            return [Row(**dict(zip(names, row, strict=True))) for row in connection.execute(query)]

    def _records(self, topic: str) -> list[StoredRecord]:
        async def read() -> list[StoredRecord]:
            reader = self.engine.platform.event_reader()
            return [one async for one in read_all(reader, ReplayRange(topic=topic))]

        return sorted(asyncio.run(read()), key=lambda one: (one.partition, one.offset))

    def _check_topics(
        self, verdict: Verdict, rows: Sequence[Row], records: dict[str, list[StoredRecord]]
    ) -> dict[str, list[str]]:
        """What the topics tell of each job, without repetitions."""
        seen: dict[str, StoredRecord] = {}
        by_key: dict[str, list[StoredRecord]] = defaultdict(list)
        stories: dict[str, list[str]] = defaultdict(list)
        for topic in TOPICS:
            for record in records[topic]:
                event_id = dict(record.headers)["ce_id"].decode()
                if event_id in seen:
                    self.n_repeated += 1
                    before = seen[event_id]
                    if (before.value, before.key, before.partition) != (
                        record.value,
                        record.key,
                        record.partition,
                    ):
                        verdict.changed_repetitions.append(event_id)
                    continue
                seen[event_id] = record
                by_key[f"{topic} {(record.key or b'').decode()}"].append(record)
                event_type = dict(record.headers)["ce_type"].decode()
                if event_type.startswith("job."):
                    stories[json.loads(record.value or b"")["job_id"]].append(event_type)
        written = {row.event_id for row in rows}
        verdict.not_in_topic = sorted(written - seen.keys())
        verdict.phantoms = sorted(seen.keys() - written)
        order: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            order[f"{row.topic} {row.key}"].append(row.event_id)
        verdict.reordered_keys = [
            key
            for key, ids in order.items()
            if [dict(one.headers)["ce_id"].decode() for one in by_key[key]] != ids
        ]
        return stories

    def _job_ids(self) -> list[str]:
        found: list[str] = []
        while page := self.engine.platform.store.list_jobs(
            limit=500, before_seq=None if not found else self._seq_of(found[-1])
        ):
            found += [job.id for job in page]
        return found

    def _seq_of(self, job_id: str) -> int:
        return self.engine.platform.store.get_job(job_id).seq

    def _check_jobs(self, verdict: Verdict, jobs: dict[str, Job], stories: dict[str, list[str]]) -> None:
        """The store's rows tell the same story as the topic, without the outbox in between."""
        assert {job.id for job in self.jobs} <= jobs.keys()
        verdict.unfinished_jobs = [job.id for job in jobs.values() if not job.state.is_final]
        for job in jobs.values():
            told = stories.get(job.id, [])
            n_retried = job.attempt - 1 if job.attempt else 0
            if (
                told[:1] != ["job.submitted"]
                or told[-1:] != [_TERMINAL.get(job.state, "none")]
                or told.count("job.started") != job.attempt
                or told.count("job.retrying") < n_retried
                or len(told) != 2 + job.attempt + told.count("job.retrying") + told.count("job.queued")
            ):
                verdict.wrong_stories.append(f"{job.id} {job.state} attempt {job.attempt}: {told}")

    def _check_dashboard(self, verdict: Verdict, rows: Sequence[Row], jobs: dict[str, Job]) -> None:
        applied: list[str] = []
        shown: dict[str, str] = {}
        by_key: dict[str, list[str]] = defaultdict(list)
        key_of = {row.event_id: f"{row.topic} {row.key}" for row in rows}
        with redis.Redis.from_url(self.engine.settings.redis.streams()) as client:
            for stream in STREAMS:
                for _, fields in client.xrange(stream):
                    frame = json.loads(fields[b"data"])
                    if "event_id" not in frame:  # progress, which is no event
                        continue
                    applied.append(frame["event_id"])
                    # Order holds within a stream.
                    by_key[f"{stream} {key_of.get(frame['event_id'], 'nobody')}"].append(frame["event_id"])
                    if frame["type"] == "job":
                        shown[frame["job_id"]] = frame["state"]
        self._count(verdict, "dashboard", applied, {row.event_id for row in rows})
        place = {row.event_id: row.number for row in rows}
        verdict.applied_out_of_order["dashboard"] = [
            key for key, ids in by_key.items() if ids != sorted(ids, key=lambda one: place.get(one, 0))
        ]
        verdict.dashboard_differs = [job.id for job in jobs.values() if shown.get(job.id) != job.state.value]

    def _check_audit(self, verdict: Verdict, rows: Sequence[Row]) -> None:
        entries = self.engine.platform.store.audit.list(limit=1_000_000)
        expected = {row.event_id for row in rows if row.topic == "audit_events"}
        self._count(verdict, "audit", [entry.event_id for _, entry in entries], expected)

    def _check_alerts(self, verdict: Verdict, rows: Sequence[Row], jobs: dict[str, Job]) -> None:
        made = [
            (job.idempotency_key or "").removeprefix("alert:")
            for job in jobs.values()
            if job.owner == "alerts"
        ]
        expected = {
            row.event_id for row in rows if row.type in ALERTED and "alert" not in row.payload.get("tags", ())
        }
        self._count(verdict, "alerts", made, expected)

    def _check_webhooks(self, verdict: Verdict, rows: Sequence[Row], jobs: dict[str, Job]) -> None:
        deliveries = [job for job in jobs.values() if job.owner == "webhooks"]
        made = [(job.idempotency_key or "").removeprefix("webhook:hook:") for job in deliveries]
        expected = {
            row.event_id
            for row in rows
            if row.type in HOOKED and row.payload.get("kind") != "deliver_webhook"
        }
        self._count(verdict, "webhooks", made, expected)
        verdict.not_applied["the receiver of webhooks"] = sorted(expected - self.hook.ids.keys())

    @staticmethod
    def _count(verdict: Verdict, group: str, applied: Sequence[str], expected: set[str]) -> None:
        times = Counter(applied)
        verdict.not_applied[group] = sorted(expected - times.keys())
        verdict.applied_twice[group] = sorted(
            [event_id for event_id, n in times.items() if n > 1]
            + [f"never written: {event_id}" for event_id in times.keys() - expected]
        )

    def report(self, seed: int, duration_s: float) -> str:
        """The seed, the kills and the counts."""
        rows = self._rows()
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

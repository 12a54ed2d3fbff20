"""What is wrong after a run of jobs: a checker that believes nobody.

It reads the topics themselves, and sets what it finds beside the rows of the store, the live streams of
Redis, and what the receiver of webhooks was sent.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from sqlalchemy import select

from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.events.ports import StoredRecord
from pynomaly_tasks.events.replay import ReplayRange, read_all
from pynomaly_tasks.realtime.streams import STREAMS
from pynomaly_tasks.store.tables import outbox
from support.jobs import Engine

TOPICS = ("job_events", "anomaly_events", "system_events", "audit_events")
ALERTED = ("job.failed", "job.dead_lettered")
HOOKED = ("job.failed", "job.cancelled")
_TERMINAL = {
    JobState.SUCCEEDED: "job.completed",
    JobState.FAILED: "job.failed",
    JobState.CANCELLED: "job.cancelled",
    JobState.DEAD: "job.dead_lettered",
}


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


class EventChecker:
    """Looks at everything that a run left."""

    def __init__(self, engine: Engine, submitted: Sequence[Job], delivered: Collection[str]) -> None:
        """``delivered``: ids that the receiver of webhooks was sent."""
        self.engine = engine
        self.submitted = submitted
        self.delivered = delivered
        self.n_repeated = 0

    def check(self) -> Verdict:
        """Set what is there beside what should be."""
        verdict = Verdict()
        rows = self.rows()
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

    def rows(self) -> list[Row]:
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
        assert {job.id for job in self.submitted} <= jobs.keys()
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
        verdict.not_applied["the receiver of webhooks"] = sorted(expected - self.delivered)

    @staticmethod
    def _count(verdict: Verdict, group: str, applied: Sequence[str], expected: set[str]) -> None:
        times = Counter(applied)
        verdict.not_applied[group] = sorted(expected - times.keys())
        verdict.applied_twice[group] = sorted(
            [event_id for event_id, n in times.items() if n > 1]
            + [f"never written: {event_id}" for event_id in times.keys() - expected]
        )

"""The present state of the jobs that a client watches, for one that cannot be told all that it missed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.core.job import Job
from pynomaly_tasks.core.redact import mask_url
from pynomaly_tasks.errors import NotFound, Unavailable
from pynomaly_tasks.realtime.filters import Filter
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

MAX_JOBS = 200
_AT_ONCE = 2


class Snapshots:
    """Reads snapshots from the store: once for all clients that ask for the same before it is begun.

    A snapshot is JSON: ``jobs``, newest first, as frames of the dashboard stream (null while the store
    is away); ``is_complete``: whether these are all, else the JSON interface has the rest.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._asked: dict[frozenset[Filter], asyncio.Future[bytes]] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def take(self, filters: Iterable[Filter]) -> bytes:
        """The jobs that pass one of the filters, at most MAX_JOBS."""
        which = frozenset(filters)
        if which not in self._asked:
            self._asked[which] = asyncio.ensure_future(self._read(which))
        try:
            # One client that leaves must not take the answer from the others.
            return await asyncio.shield(self._asked[which])
        except Unavailable as error:
            log.warning("snapshot_unavailable", reason=str(error))
            return orjson.dumps({"jobs": None, "is_complete": False})

    async def _read(self, filters: frozenset[Filter]) -> bytes:
        async with self._turn:
            # Who asks from now on is owed what happens from now on: it gets a later one.
            del self._asked[filters]
            return await run_in_threadpool(lambda: read_snapshot(self._platform.store, filters))


def read_snapshot(store: Store, filters: Iterable[Filter]) -> bytes:
    """See `Snapshots.take`. Raises StoreUnavailable."""
    found: dict[str, Job] = {}
    is_complete = True
    for which in filters:
        if which.get("stream") and "dashboard" not in which.get("stream"):
            continue
        n_read = 0
        for job in _candidates(store, which):
            n_read += 1
            if _passes(job, which):
                found[job.id] = job
        is_complete = is_complete and n_read <= MAX_JOBS
    newest = sorted(found.values(), key=lambda job: job.seq, reverse=True)
    jobs = [job_frame(job) for job in newest[:MAX_JOBS]]
    return orjson.dumps({"jobs": jobs, "is_complete": is_complete and len(newest) <= MAX_JOBS}, default=dict)


def job_frame(job: Job) -> dict[str, Any]:
    """The job as the dashboard stream would tell of it."""
    return {
        "type": "job",
        "event": None,
        "job_id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "state": job.state.value,
        "attempt": job.attempt,
        "progress": None if job.progress is None else asdict(job.progress),
        "summary": job.summary,
        "error": None if job.error is None else {"type": job.error.type, "message": job.error.message},
        "tags": list(job.tags),
        "dataset": _dataset(job),
        "at": (job.finished_at or job.started_at or job.created_at).timestamp(),
    }


def _candidates(store: Store, which: Filter) -> Iterator[Job]:
    if wanted := which.get("job_id"):
        for job_id in sorted(wanted):
            try:
                yield store.get_job(job_id)
            except NotFound:
                continue
        return
    tags: list[str | None] = [*sorted(which.get("tag"))]
    kinds: list[str | None] = [*sorted(which.get("kind"))]
    for tag in tags or [None]:
        for kind in kinds or [None]:
            yield from store.list_jobs(kind=kind, tag=tag, limit=MAX_JOBS + 1)


def _passes(job: Job, which: Filter) -> bool:
    dataset = _dataset(job)
    has: dict[str, set[str]] = {
        "job_id": {job.id},
        "tag": set(job.tags),
        "kind": {job.kind},
        "dataset": set() if dataset is None else {dataset},
    }
    return all(wanted & has[name] for name, wanted in which.fields if name in has)


def _dataset(job: Job) -> str | None:
    dataset = job.request.get("dataset")
    return mask_url(dataset) if isinstance(dataset, str) else None

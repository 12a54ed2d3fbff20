"""Applying events of the past once more: by one group, past its inbox, beside its live members."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import BadEvent
from pynomaly_tasks.events.effect import Effect
from pynomaly_tasks.events.handlers import matches
from pynomaly_tasks.events.ports import Partition, Reader, StoredRecord
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

_PAGE = 1_000
#: A person waits: a neighbour that is away for longer ends the replay, which can be taken up again.
_TRIES = 8
_BACKOFF = RetryPolicy(backoff_s=0.2, backoff_max_s=10.0, jitter=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRange:
    """Which messages of a topic. With ``from_offset`` of one partition, else of all."""

    topic: str
    since: datetime | None = None
    until: datetime | None = None
    partition: int | None = None
    from_offset: int | None = None


@dataclass(slots=True, kw_only=True)
class ReplayReport:
    """What a replay has done so far."""

    n_read: int = 0
    n_matching: int = 0  #: of a type that was asked for
    n_applied: int = 0  #: that the group did something about
    bad: list[tuple[StoredRecord, BadEvent]] = field(default_factory=list)  #: that are no events
    failed: list[tuple[Event, Exception]] = field(default_factory=list)  #: that the group could not apply


async def read_all(reader: Reader, which: ReplayRange, *, page: int = _PAGE) -> AsyncIterator[StoredRecord]:
    """Every message of the range, in order within a partition. Raises EventLogUnavailable."""
    since: datetime | int | None = which.since if which.from_offset is None else which.from_offset
    seen: dict[Partition, int] = {}
    while True:
        records = await reader.read(which.topic, since=since, until=which.until, max_records=page)
        n_new = 0
        for record in records:
            place = Partition(record.topic, record.partition)
            if record.offset <= seen.get(place, -1):
                continue  # of the same instant as the end of the page before
            seen[place] = record.offset
            n_new += 1
            if which.partition in (None, record.partition) and record.offset >= (which.from_offset or 0):
                yield record
        if len(records) < page:
            return
        if n_new == 0:
            page *= 2  # more messages of one instant than a page holds
        since = records[-1].at


async def replay(
    reader: Reader,
    ranges: Sequence[ReplayRange],
    effect: Effect,
    decode: Callable[[StoredRecord], Event],
    *,
    replay_id: str,
    patterns: Sequence[str] = ("*",),
    dry_run: bool = False,
) -> ReplayReport:
    """Have the effect apply what the ranges hold; the group's offsets are not touched.

    The inbox knows each event by the replay's id as well, so the same replay may be repeated to
    finish it. Raises the error of a neighbour that stays away.
    """
    report = ReplayReport()
    batch: list[Event] = []
    for which in ranges:
        async for record in read_all(reader, which):
            report.n_read += 1
            try:
                event = decode(record)
            except BadEvent as error:
                report.bad.append((record, error))
                continue
            if matches(event.type, patterns):
                report.n_matching += 1
                batch.append(event)
            if len(batch) >= effect.batch_size and not dry_run:
                await _apply(effect, batch, replay_id, report)
                batch = []
    if batch and not dry_run:
        await _apply(effect, batch, replay_id, report)
    return report


async def apply_patiently(effect: Effect, events: Sequence[Event], replay_id: str | None) -> int:
    """Apply, waiting a while for a neighbour that is away. Raises what the effect raises in the end."""
    for attempt in range(1, _TRIES + 1):
        try:
            return await effect.apply(events, replay_id=replay_id)
        except Exception as error:
            if attempt == _TRIES or not getattr(error, "retryable", False):
                raise
            log.warning("replay_waits", reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_BACKOFF.delay_s(attempt))
    raise AssertionError("the last try returns or raises")


async def _apply(effect: Effect, batch: Sequence[Event], replay_id: str, report: ReplayReport) -> None:
    try:
        report.n_applied += await apply_patiently(effect, batch, replay_id)
    except Exception as error:
        if getattr(error, "retryable", False):
            raise
        if len(batch) == 1:
            report.failed.append((batch[0], error))
            return
        for event in batch:
            await _apply(effect, [event], replay_id, report)

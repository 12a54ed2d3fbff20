"""Work to Celery, facts to the log of events, updates to those who watch; from plain code and from coroutines."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import orjson

from pynomaly_tasks.bootstrap import Platform, current_platform
from pynomaly_tasks.core.job import Job
from pynomaly_tasks.errors import InvalidRequest
from pynomaly_tasks.publishing import publish_event, publish_event_async

__all__ = [
    "enqueue_job",
    "enqueue_job_async",
    "publish_event",
    "publish_event_async",
    "stream_update",
    "stream_update_async",
]

#: A live stream keeps about a thousand updates, and each goes to everybody who watches.
MAX_UPDATE_BYTES = 65_536
_TYPE = re.compile(r"[a-z][a-z0-9_.]{0,99}")


def enqueue_job(
    kind: str, request: Mapping[str, Any], *, platform: Platform | None = None, **options: Any
) -> Job:
    """Accept one job, to be run by a Celery worker; ``options`` are the fields of `JobOptions`.

    Returns once the job is stored; from then on it ends succeeded, failed, cancelled or dead-lettered.
    Raises InvalidRequest, IdempotencyMismatch, StoreUnavailable. From a coroutine take `enqueue_job_async`.
    """
    return (platform or current_platform()).submit(kind, request, **options)


async def enqueue_job_async(
    kind: str, request: Mapping[str, Any], *, platform: Platform | None = None, **options: Any
) -> Job:
    """`enqueue_job` for coroutines: waits without blocking the event loop."""
    return await asyncio.to_thread(enqueue_job, kind, request, platform=platform, **options)


def stream_update(
    update_type: str, data: Mapping[str, Any], *, stream: str = "activity", platform: Platform | None = None
) -> None:
    """Show something to people who watch, now; best effort: dropped when Redis does not take it in time.

    They get ``{"type": update_type, **data}``; the fields job_id, kind, dataset, event and tags are what
    they can filter by. ``stream``: dashboard, notifications, health or activity. What must not be lost is
    an event: `publish_event`. Raises InvalidRequest.
    """
    update, name = _update(update_type, data, stream)
    (platform or current_platform()).updates.publish(update, stream=name)


async def stream_update_async(
    update_type: str, data: Mapping[str, Any], *, stream: str = "activity", platform: Platform | None = None
) -> None:
    """`stream_update` for coroutines: waits without blocking the event loop."""
    await asyncio.to_thread(stream_update, update_type, data, stream=stream, platform=platform)


def _update(update_type: str, data: Mapping[str, Any], stream: str) -> tuple[dict[str, Any], str]:
    from pynomaly_tasks.realtime.streams import STREAM_NAMES, STREAMS

    if stream not in STREAM_NAMES:
        raise InvalidRequest.of("stream", f"is {stream!r:.60}; the streams are {', '.join(STREAM_NAMES)}")
    if not isinstance(update_type, str) or not _TYPE.fullmatch(update_type):
        raise InvalidRequest.of(
            "update_type",
            f"is {update_type!r:.60}; it must be 1 to 100 of a-z, 0-9, _ and . and begin with a letter",
        )
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise InvalidRequest.of("data", "must map names to JSON values")
    if "type" in data:
        raise InvalidRequest.of("data.type", "is what update_type says; leave it out")
    update = {"type": update_type, **data}
    try:
        size = len(orjson.dumps(update))
    except TypeError as error:
        raise InvalidRequest.of("data", f"is no JSON: {error}") from None
    if size > MAX_UPDATE_BYTES:
        raise InvalidRequest.of(
            "data", f"is {size:,} bytes of JSON; at most {MAX_UPDATE_BYTES:,} are allowed"
        )
    return update, STREAMS[STREAM_NAMES.index(stream)]

"""Publishing events of the application's own, from any process of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pynomaly_tasks.bootstrap import Platform, current_platform
from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.errors import EventLogUnavailable

if TYPE_CHECKING:
    from pynomaly_tasks.store.event_transactions import Connection

PUBLISH_TIMEOUT_S = 15.0


def publish_event(
    data: EventData,
    *,
    key: str,
    wait: bool = True,
    timeout_s: float = PUBLISH_TIMEOUT_S,
    traceparent: str | None = None,
    platform: Platform | None = None,
) -> str:
    """Tell other systems of a fact; the event's id.

    Returns when the log of events has it, or, while that is away, the outbox, from where the relay
    publishes it later. Inside a `transaction` it is written there: published if that commits, else not.
    Events of one ``key`` that one process publishes stay in order.

    ``wait=False`` returns at once, with the event in this process' memory: it is flushed when the
    process ends in order, and lost when it is killed. From a coroutine take `publish_event_async`.

    Raises InvalidInput for what the type's schema, the size or the key forbid; EventRefused where the
    log will never take it; EventLogUnavailable where neither log nor outbox took it, where it is not
    known within ``timeout_s`` (it may still be published), or where too many wait in this process.
    """
    platform = platform or current_platform()
    if wait and _is_in_event_loop():
        raise RuntimeError(
            "publish_event would block this event loop: await publish_event_async, or give wait=False"
        )
    event, done = _accept(platform, data, key, traceparent, is_awaited=wait)
    if wait:
        try:
            done.result(timeout_s)
        except TimeoutError:
            raise _not_known(event, timeout_s) from None
    return event.id


async def publish_event_async(
    data: EventData,
    *,
    key: str,
    timeout_s: float = PUBLISH_TIMEOUT_S,
    traceparent: str | None = None,
    platform: Platform | None = None,
) -> str:
    """`publish_event` for coroutines: waits without blocking the event loop."""
    platform = platform or current_platform()
    await asyncio.to_thread(getattr, platform, "publisher")  # at the first use it opens the store
    event, done = _accept(platform, data, key, traceparent, is_awaited=True)
    try:
        await asyncio.wait_for(asyncio.wrap_future(done), timeout_s)
    except TimeoutError:
        raise _not_known(event, timeout_s) from None
    return event.id


@contextmanager
def transaction(platform: Platform | None = None) -> Iterator[Connection]:
    """A transaction of the store's database, for the application's own tables there.

    What is executed on its connection and the events that are published inside are kept together, or,
    when the block raises, not at all. Use nothing else of the platform inside: on SQLite it would wait
    for this transaction to end. What was published before with ``wait=False`` may come after what is
    published inside, also with the same key.
    """
    with (platform or current_platform()).store.event_transactions.transaction() as connection:
        yield connection


def _accept(
    platform: Platform, data: EventData, key: str, traceparent: str | None, *, is_awaited: bool
) -> tuple[Event, Future[Any]]:
    from pynomaly_tasks.events.door import build_event

    event = build_event(
        data,
        key,
        traceparent=traceparent,
        topics=platform.topics,
        max_bytes=platform.settings.events.max_event_kb * 1_024,
    )
    return event, platform.publisher.publish(event, is_awaited=is_awaited)


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _not_known(event: Event, timeout_s: float) -> EventLogUnavailable:
    return EventLogUnavailable(
        f"event {event.id} was not confirmed within {timeout_s:g} s (timeout_s); it may still be published"
    )

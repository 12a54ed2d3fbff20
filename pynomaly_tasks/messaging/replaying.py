"""Sending again what was settled, of a broker that keeps it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from pynomaly_tasks.errors import InvalidQueue, NotSupported, QueueFull, UnreadableMessage
from pynomaly_tasks.messaging.backend import Put, Replays
from pynomaly_tasks.messaging.dead_letters import DeadLetters
from pynomaly_tasks.messaging.message import Message
from pynomaly_tasks.messaging.publishing import require
from pynomaly_tasks.messaging.session import Session
from pynomaly_tasks.messaging.topology import Topology

_PAGE = 200


async def replay(session: Session, letters: DeadLetters, queue: str, since: datetime | int) -> int:
    """See `QueueManager.replay`."""
    backend = session.backend
    require(backend.capabilities, "replay", "since", backend.name)
    if not isinstance(backend, Replays):
        raise NotSupported.of("since", f"the backend {backend.name} lacks read_back")
    _check(since)
    (await session.topology(fresh=True)).get_queue(queue)
    dead = await letters.message_ids(queue)
    page: list[tuple[Message, bytes]] = []
    n = 0
    async for stored in backend.read_back(queue, since=since):
        if stored.message_id in dead:
            continue
        try:
            page.append((session.codec.decode(stored.body, queue=queue), stored.body))
        except UnreadableMessage:
            continue  # it went to the dead letters, and may have been discarded there
        if len(page) == _PAGE:
            n += await _send(session, queue, page, n)
            page = []
    return n + (await _send(session, queue, page, n) if page else 0)


async def _send(session: Session, queue: str, page: list[tuple[Message, bytes]], n_before: int) -> int:
    async def put(topology: Topology) -> list[Put]:
        options = topology.get_queue(queue)
        entries = [
            replace(session.entry(queue, options, message, body), delay_s=0.0) for message, body in page
        ]
        return await session.backend.put(entries, catalog_version=topology.version)

    puts = await session.act(put)
    n_sent = puts.count(Put.DONE)
    if Put.FULL in puts:
        raise QueueFull(
            f"the queue {queue} is at its max_size: {n_before + n_sent:,} messages were sent again, the rest was not"
        )
    return n_sent


def _check(since: datetime | int) -> None:
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise InvalidQueue.of(
                "since", f"is {since.isoformat()}, of no time zone; give it one, such as UTC"
            )
    elif type(since) is not int or since < 0:
        raise InvalidQueue.of("since", f"is {since!r:.60}; it must be a time, or an offset from 0 on")

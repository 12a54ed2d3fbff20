"""The groups of the log on Redis Streams, for people who operate it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing

from pynomaly_tasks.errors import Conflict, NotFound
from pynomaly_tasks.events.redis_streams import keys
from pynomaly_tasks.events.redis_streams.connection import Connection, load

_FORGET = load("forget")


async def groups_of(
    url: str, topics: Mapping[str, int], *, timeout_s: float = 5.0
) -> Mapping[str, list[str]]:
    """Each group that ever read, with its topics. Raises EventLogUnavailable."""
    found: dict[str, list[str]] = {}
    async with aclosing(Connection(url, timeout_s)) as redis:
        for topic in topics:
            for group in sorted(await redis.execute("SMEMBERS", keys.groups(topic))):
                found.setdefault(group.decode(), []).append(topic)
    return found


async def forget_group(url: str, topics: Mapping[str, int], group: str, *, timeout_s: float = 5.0) -> None:
    """Drop a group that is gone for good, so that records are no longer kept for it.

    Raises Conflict while one of its members lives, NotFound where there is none of that name.
    """
    async with aclosing(Connection(url, timeout_s)) as redis:
        answer = await redis.run(
            _FORGET,
            [
                keys.members(group),
                keys.leases(group),
                keys.offsets(group),
                keys.changes(group),
                *map(keys.groups, topics),
            ],
            [group],
        )
    if answer == -1:
        raise Conflict(f"a consumer of the group {group!r} still runs; stop it first")
    if answer == 0:
        raise NotFound(f"there is no group {group!r}")

"""What workers have taken and not settled, as everybody can see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import redis

from pynomaly_tasks.transport.ledger import MARK

_PER_READ = 500


def held_task_ids(
    client: redis.Redis,
    *,
    heard_of_within_s: float,
    unacked_key: str = "unacked",
    index_key: str = "unacked_index",
) -> Iterator[str]:
    """Ids of the tasks whose message a worker on this transport holds, being run or taken in advance.

    A worker renews what it holds four times in a lease, so that one of which nothing was heard for
    longer may be dead. Keys with their prefix; the client must not decode responses. Raises redis errors.
    """
    ask: Any = client  # redis-py types each answer as perhaps awaitable
    seconds, microseconds = ask.time()
    oldest = seconds + microseconds / 1_000_000 - heard_of_within_s
    tags = ask.zrangebyscore(index_key, oldest, "+inf")
    ours = [tag for tag in tags if tag.startswith(MARK.encode())]
    for start in range(0, len(ours), _PER_READ):
        for record in ask.hmget(unacked_key, ours[start : start + _PER_READ]):
            if (task_id := _task_id(record)) is not None:
                yield task_id


def _task_id(record: bytes | None) -> str | None:
    """None for what was settled meanwhile, and for what is no task."""
    try:
        task_id = orjson.loads(record or b"")[0]["headers"]["id"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    return task_id if isinstance(task_id, str) else None

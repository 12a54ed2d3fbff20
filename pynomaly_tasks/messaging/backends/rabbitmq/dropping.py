"""What RabbitMQ itself takes out of a queue, because an operator's policy says so: kept among the queue's dead letters.

A policy may bound how long messages wait (``message-ttl``), how many times they are handed out (``delivery-limit``)
and how many may wait (``max-length``). What the first two drop RabbitMQ puts into the queue of the dead letters, and
keeps it until that queue has it (``at-least-once``); by the last it refuses what is published (``reject-publish``), as
that strategy demands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiormq.abc import DeliveredMessage

from pynomaly_tasks.messaging.dead_letters import Reason
from pynomaly_tasks.messaging.plain_broker import Drop

_WHY = {
    "expired": (Reason.EXPIRED, "it waited longer than the message-ttl that a policy of RabbitMQ sets"),
    "delivery_limit": (
        Reason.RETRIES_USED_UP,
        "it was handed out more often than the delivery-limit that a policy of RabbitMQ sets",
    ),
    "maxlen": (Reason.OVERFLOW, "the queue was longer than the max-length that a policy of RabbitMQ sets"),
    "rejected": (Reason.HANDLER_ERROR, "another program rejected it"),
}


def drops_go_to(name: str) -> dict[str, str | int]:
    """The arguments of a queue whose dropped messages come to the queue ``name``."""
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": name,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def find_drop(message: DeliveredMessage) -> Drop | None:
    """Why RabbitMQ put it where it lies; None where somebody published it there."""
    deaths = (message.header.properties.headers or {}).get("x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], Mapping):
        return None
    said: Mapping[str, Any] = deaths[0]  # the latest
    word, at = str(said.get("reason", "")), said.get("time")
    reason, why = _WHY.get(word, (Reason.HANDLER_ERROR, "RabbitMQ dropped it"))
    return Drop(
        reason=reason, why=f"{why} ({word})", at=at if isinstance(at, datetime) else datetime.now(UTC)
    )


def name_of(message: DeliveredMessage, drop: Drop | None) -> str:
    """Of an item, from who published it; of one without a name that was dropped, one that it always has."""
    name = message.header.properties.message_id or ""
    if name or drop is None:
        return name
    at_ns = int(drop.at.timestamp()) * 1_000_000_000
    return f"{at_ns:020d}-{hashlib.sha256(message.body).hexdigest()[:16]}"

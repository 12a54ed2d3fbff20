"""What is sent: a message, and what is asked for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.errors import InvalidMessage
from pynomaly_tasks.messaging.names import MAX_NAME, check_name, topic_segments
from pynomaly_tasks.messaging.options import MAX_SECONDS

MAX_PRIORITY = 255
MAX_HEADERS = 64


class Guarantee(Enum):
    """What the sender is promised."""

    FIRE_AND_FORGET = "fire_and_forget"  #: at most once: it is settled before the handler sees it
    AT_LEAST_ONCE = "at_least_once"  #: handed out until acknowledged, or a dead letter
    BROADCAST = "broadcast"  #: as at least once; complete when every matching subscriber acknowledged
    QUORUM = "quorum"  #: as at least once; complete when N different subscribers acknowledged


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing to tell; the id stays through every retry and redrive.

    Raises InvalidMessage, naming the field and its limit. The payload is checked by the codec.
    """

    payload: Any
    id: str = field(default_factory=new_id)
    queue: str = ""  #: that it lies in; empty until it is sent
    topic: str = ""  #: that it was published to; empty when it was sent to a queue
    type: str = ""  #: which handler of a worker it is for; empty: the queue's
    headers: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0  #: 0 to 255, higher first; counts in queues of the kind priority
    delay_s: float | None = None  #: not handed out before; None: as the queue says
    ttl_s: float | None = None  #: never handed out after; None: as the queue says
    correlation_id: str = ""
    reply_to: str = ""  #: queue that an answer goes to
    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE

    def __post_init__(self) -> None:
        if self.topic:
            topic_segments(self.topic, "topic", InvalidMessage)
        if self.queue != "":
            check_name(self.queue, "queue", InvalidMessage)
        if self.type != "":
            check_name(self.type, "type", InvalidMessage)
        if self.reply_to != "":
            check_name(self.reply_to, "reply_to", InvalidMessage)
        _check_text("id", self.id)
        if self.correlation_id != "":
            _check_text("correlation_id", self.correlation_id)
        if not self.id:
            raise InvalidMessage.of("id", "is empty; leave it out to have one made")
        if type(self.priority) is not int or not 0 <= self.priority <= MAX_PRIORITY:
            raise InvalidMessage.of(
                "priority", f"is {self.priority!r}; it must be a whole number, 0 to {MAX_PRIORITY}"
            )
        if not isinstance(self.guarantee, Guarantee):
            raise InvalidMessage.of("guarantee", f"must be a Guarantee, not {self.guarantee!r:.40}")
        if self.delay_s is not None:
            _check_seconds("delay_s", self.delay_s, low=0.0)
        if self.ttl_s is not None:
            _check_seconds("ttl_s", self.ttl_s, low=0.001)
        if self.headers != {}:
            _check_headers(self.headers)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > MAX_NAME or not value.isprintable():
        raise InvalidMessage.of(name, f"must be printable text of at most {MAX_NAME} characters")


def _check_seconds(name: str, value: object, *, low: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise InvalidMessage.of(name, f"is {value!r:.40}; it must be a number of seconds")
    if not low <= value <= MAX_SECONDS:
        raise InvalidMessage.of(name, f"is {value:g}; it must be {low:g} to {MAX_SECONDS:,.0f} seconds")


def _check_headers(headers: object) -> None:
    if not isinstance(headers, Mapping):
        raise InvalidMessage.of("headers", f"must map names to text, and is {type(headers).__name__}")
    if len(headers) > MAX_HEADERS:
        raise InvalidMessage.of("headers", f"there are {len(headers)}; at most {MAX_HEADERS} are allowed")
    for name, value in headers.items():
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
            raise InvalidMessage.of(
                "headers", f"the name {name!r:.40} must be text of 1 to {MAX_NAME} characters"
            )
        if not isinstance(value, str) or len(value) > 4_096:
            raise InvalidMessage.of(
                f"headers.{name}", "must be text of at most 4,096 characters; the payload takes more"
            )

"""Events of an application, and processes that publish them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from pynomaly_tasks import bootstrap, publish_event
from pynomaly_tasks.bootstrap import Platform, current_platform
from pynomaly_tasks.core.event import JOB_EVENTS
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.events.cloudevents import decode


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPlaced(EventData):
    """An order was placed."""

    type: ClassVar[str] = "test.order_placed"
    topic: ClassVar[str] = JOB_EVENTS

    number: Annotated[int, Field(ge=0, description="Of the order.")]
    note: Annotated[str, Field(description="Of the customer.")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misdirected(EventData):
    """It goes where nothing goes."""

    type: ClassVar[str] = "test.misdirected"
    topic: ClassVar[str] = "no_such_topic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(EventData):
    """Nobody told the catalogue of it."""

    type: ClassVar[str] = "test.unknown"
    topic: ClassVar[str] = JOB_EVENTS


bootstrap.add_event_type(OrderPlaced)


def published(platform: Platform) -> dict[str, list[int]]:
    """The numbers of the orders in the log, by key, in order; repetitions of an event count once."""
    found: dict[str, dict[str, int]] = {}
    for record in asyncio.run(
        platform.event_reader().read(JOB_EVENTS, since=None, until=None, max_records=100_000)
    ):
        event = decode(record)
        if event.type == OrderPlaced.type:
            found.setdefault(event.key, {}).setdefault(event.id, event.data["number"])
    return {key: list(numbers.values()) for key, numbers in found.items()}


def publish_and_end(n: int = 500) -> None:
    """Without waiting for any of them."""
    for number in range(n):
        publish_event(OrderPlaced(number=number), key="a", wait=False)
    print("accepted", flush=True)


def publish_and_fork() -> None:
    """One event before a fork, one after it in the child, and one in the parent."""
    publish_event(OrderPlaced(number=1), key="parent")
    child = os.fork()
    if not child:
        publish_event(OrderPlaced(number=2), key="child")
        publish_event(OrderPlaced(number=3), key="child", wait=False)
        current_platform().close()
        os._exit(0)
    publish_event(OrderPlaced(number=4), key="parent")
    assert os.waitpid(child, 0)[1] == 0
    print("ended", flush=True)

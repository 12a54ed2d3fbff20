"""What a backend declares absent it refuses, with the names of those that have it; nothing is ignored."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import NotSupported
from pynomaly_tasks.messaging import (
    Capabilities,
    Guarantee,
    Kind,
    QueueManager,
    QueueOptions,
    capability_table,
)
from pynomaly_tasks.messaging.capabilities import CAPABILITY_NAMES, Support
from pynomaly_tasks.messaging.emulation import EmulatedBackend
from support.messaging import BrokerUnderTest
from support.plain_memory import PlainMemoryBroker, PlainMemoryServer

Use = Callable[[QueueManager], Awaitable[Any]]

BARE = QueueOptions(retry=RetryPolicy(max_retries=0), dead_letters=False)


def _create(**options: Any) -> Use:
    return lambda manager: manager.create_queue(
        "asks", QueueOptions(**{"dead_letters": False, "retry": BARE.retry, **options})
    )


def _send(**fields: Any) -> Use:
    return lambda manager: manager.send("bare", 1, **fields)


#: How a program asks for each capability that a queue or a message can ask for.
USES: dict[str, list[Use]] = {
    "priority": [_create(kind=Kind.PRIORITY)],
    "delay": [_create(kind=Kind.DELAY), _send(delay_s=1.0)],
    "deduplication": [_create(deduplication_s=1.0)],
    "ttl": [_create(ttl_s=1.0), _send(ttl_s=1.0)],
    "max_size": [_create(max_size=1)],
    "dead_letters": [_create(dead_letters=True)],
    "ack": [_create(retry=RetryPolicy(max_retries=1))],
    "confirmations": [_send(guarantee=Guarantee.BROADCAST), _send(guarantee=Guarantee.QUORUM, quorum=1)],
}
#: What nobody asks for in a call of its own: it is the broker's nature, and the table and its page say it.
NATURE = {"groups", "order", "depth", "purge", "persistence", "replay"}


async def _refuses(manager: QueueManager, capability: str, use: Use) -> None:
    able = [
        name
        for name, capabilities in capability_table().items()
        if getattr(capabilities, capability) is not Support.ABSENT
    ]
    with pytest.raises(
        NotSupported, match=re.escape(f"has no {capability}; these have it: {', '.join(able)}")
    ):
        await use(manager)


async def test_what_is_absent_is_refused_with_the_names_of_those_that_have_it(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as manager:
        capabilities = manager.backend.capabilities
        await manager.create_queue("bare", BARE)
        for capability, uses in USES.items():
            if getattr(capabilities, capability) is Support.ABSENT:
                for use in uses:
                    await _refuses(manager, capability, use)
            else:
                for use in uses:
                    await use(manager)
                    if "asks" in await manager.list_queues():
                        await manager.delete_queue("asks")
        sent = (await manager.statistics("bare")).measure.sent

        assert sent == sum(
            getattr(capabilities, name) is not Support.ABSENT
            for name in ("delay", "ttl", *2 * ("confirmations",))
        )


async def test_backend_that_has_nothing_is_refused_everything() -> None:
    broker = PlainMemoryBroker(PlainMemoryServer())
    broker.capabilities = Capabilities()  # type: ignore[misc]
    async with QueueManager(EmulatedBackend(broker)) as manager:
        await manager.create_queue("bare", BARE)
        for capability, uses in USES.items():
            for use in uses:
                await _refuses(manager, capability, use)
        assert await manager.list_queues() == {"bare": BARE}
        assert (await manager.statistics("bare")).measure.depth == 0


def test_every_capability_is_asked_for_or_said_to_be_the_brokers_nature() -> None:
    assert set(USES) | NATURE | {"tasks"} == set(CAPABILITY_NAMES)

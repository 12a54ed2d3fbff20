"""Why Kafka does not let us in, asked of each of its addresses."""

from __future__ import annotations

import asyncio
import time

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.kafka_client.reasons import Places, find_reasons
from support.kafka_listener import METADATA, VERSIONS, KafkaListener

PLACES = Places(
    servers="the addresses",
    protocol="the protocol",
    login="the login",
    mechanism="the way",
    ca_file="the file",
)


async def ask(*addresses: str, timeout_s: float = 5.0) -> str | None:
    options = {"bootstrap_servers": ",".join(addresses), "security_protocol": "PLAINTEXT"}
    return await find_reasons(options, PLACES, timeout_s)


def test_each_address_that_lets_nobody_in_is_named() -> None:
    first, second = f"127.0.0.1:{find_free_port()}", "no-such-host.invalid:9092"

    reasons = asyncio.run(ask(first, second))

    assert reasons is not None
    closed, unknown = reasons.split("; ")
    assert closed == f"{first} is closed: is Kafka running there? see the addresses"
    assert unknown.startswith(f"{second} cannot be resolved")


def test_one_address_that_lets_us_in_is_enough() -> None:
    async def scenario() -> None:
        async with KafkaListener() as listener:
            assert await ask(f"127.0.0.1:{find_free_port()}", listener.address) is None

    asyncio.run(scenario())


def test_a_silent_address_is_named_within_the_time() -> None:
    async def scenario() -> None:
        for held in (VERSIONS, METADATA):
            async with KafkaListener(held) as listener:
                started_s = time.monotonic()
                reason = await ask(listener.address, timeout_s=0.5)
                assert time.monotonic() - started_s < 2.0
                assert reason is not None
                assert reason.startswith(f"{listener.address} hangs up or does not answer (out of time)")
                assert reason.endswith("see the protocol")

    asyncio.run(scenario())


def test_without_any_time_left_nobody_is_asked() -> None:
    async def scenario() -> None:
        async with KafkaListener() as listener:
            reason = await ask(listener.address, timeout_s=-0.1)
            assert reason == f"no answer from {listener.address} within 0.0 s"

    asyncio.run(scenario())

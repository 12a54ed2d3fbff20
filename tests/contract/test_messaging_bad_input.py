"""What every backend never sees: bad names, patterns, payloads and numbers are refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet

from pynomaly_tasks.errors import InvalidMessage, InvalidQueue
from pynomaly_tasks.messaging import Codec, CodecLimits, QueueOptions, Reason
from support.messaging import BrokerUnderTest, largest_payload_bytes, one, too_large_bytes


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        ("x" * 129, "129 characters long; at most 128"),
        ("<script>alert(1)</script>", "ASCII letters, digits"),
        ("a b", "ASCII letters"),
        ("../a", "ASCII letters"),
        ("a/b", "ASCII letters"),
        ("ä", "ASCII letters"),
        ("a\n", "ASCII letters"),
        (7, "must be text, not int"),
    ],
)
async def test_bad_queue_name_is_refused(broker: BrokerUnderTest, name: Any, why: str) -> None:
    async with broker.manager() as manager:
        with pytest.raises(InvalidQueue, match=f"queue: .*{why}"):
            await manager.create_queue(name)
        with pytest.raises(InvalidQueue, match=f"subscriber: .*{why}"):
            await manager.subscribe(name, "a.b")
        assert await manager.list_queues() == {}


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a.**", "no wildcard"),
        ("a##", "stands alone"),
        ("a b", "holds a space"),
        ("user.a*", "stands alone"),
        ("##", "no wildcard"),
        ("#*", "no wildcard"),
        ("a..b", "empty segment"),
        (".a", "empty segment"),
        ("a.", "empty segment"),
        ("", "is empty"),
        ("a." * 200, "at most 255"),
        ("a\x00", "control character"),
        (None, "must be text"),
    ],
)
async def test_bad_pattern_is_refused_and_makes_no_queue(
    broker: BrokerUnderTest, pattern: Any, why: str
) -> None:
    async with broker.manager() as manager:
        with pytest.raises(InvalidQueue, match=f"pattern: .*{why}"):
            await manager.subscribe("s", pattern)
        assert await manager.list_queues() == {}


@pytest.mark.parametrize("topic", ["a.*", "#", "a b", "a..b", "", "x" * 256, "a\tb", 3])
async def test_bad_topic_is_refused(broker: BrokerUnderTest, topic: Any) -> None:
    async with broker.manager() as manager:
        with pytest.raises(InvalidMessage, match="topic: "):
            await manager.publish(topic, 1)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (float("nan"), "nan, which JSON has no word for"),
        ({"a": [float("inf")]}, "inf, which JSON has no word for"),
        (b"bytes", "holds bytes"),
        ({"a": {1, 2}}, "holds a set"),
        ({1: "a"}, "the key 1; JSON's keys are text"),
        (object(), "holds a object"),
        (2**70, "is no JSON"),
        ("\ud800", "is no JSON"),
        ("x" * (5 * 1_048_576), "5,242,882 bytes of JSON; at most 1,048,576"),
        (_nested(1_000), "deeper than 64 levels"),
        (_nested(65), "deeper than 64 levels"),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) < 99 else "payload",
)
async def test_bad_payload_is_refused(broker: BrokerUnderTest, payload: Any, why: str) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(deduplication_s=60.0))
        with pytest.raises(InvalidMessage, match=f"payload: .*{why}"):
            await manager.send("q", payload)
        with pytest.raises(InvalidMessage, match="payload: "):
            await manager.send_many("q", [1, payload])
        assert (await manager.statistics("q")).measure.sent == 0


async def test_payload_at_the_limits_is_taken(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        for payload in ("x" * (largest_payload_bytes(broker) - 2), _nested(64), None, "", {}):
            await manager.send("q", payload)
            assert (await one(manager, "q")).message.payload == payload


async def test_message_that_is_too_large_for_the_broker_is_refused_before_it_sees_it(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager(codec=Codec(limits=CodecLimits(max_bytes=80_000_000))) as manager:
        await manager.create_queue("q")
        for n_bytes in too_large_bytes(broker):
            with pytest.raises(InvalidMessage, match=r"payload: .* bytes, and .* takes"):
                await manager.send("q", "x" * n_bytes)
        assert await manager.receive("q") == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ttl_s", -1), ("ttl_s", 0), ("ttl_s", float("nan")), ("ttl_s", "soon"), ("ttl_s", 1e12),
        ("delay_s", -0.1), ("delay_s", float("inf")), ("delay_s", True),
        ("priority", -1), ("priority", 256), ("priority", 1.5), ("priority", True),
        ("headers", {"a": 1}), ("headers", [1]), ("headers", {"": "x"}), ("headers", {"a": "x" * 5_000}),
        ("id", ""), ("id", "x" * 129), ("id", "a\nb"), ("reply_to", "a b"), ("type", "<b>"), ("guarantee", "quorum"),
        ("colour", "red"),
    ],
)  # fmt: skip
async def test_bad_field_of_a_message_is_refused(broker: BrokerUnderTest, field: str, value: Any) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        with pytest.raises(InvalidMessage, match=field):
            await manager.send("q", 1, **{field: value})
        assert (await manager.statistics("q")).measure.sent == 0


async def test_wrong_encryption_key_is_told_and_the_bytes_are_kept(broker: BrokerUnderTest) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    async with (
        broker.manager(codec=Codec(keys=[old])) as writer,
        broker.manager(codec=Codec(keys=[new])) as wrong,
    ):
        await writer.create_queue("q")
        await writer.send("q", {"secret": "number 7"})

        assert await wrong.receive("q") == []
        (letter,) = await wrong.dead_letters.list_letters("q")
        assert (letter.reason, letter.message) == (Reason.UNREADABLE, None)
        assert "encrypted with a key that this process does not have" in letter.error
        assert b"number 7" not in letter.raw
    async with broker.manager(codec=Codec(keys=[new, old])) as rotated:
        await rotated.dead_letters.redrive_all("q")
        assert (await one(rotated, "q")).message.payload == {"secret": "number 7"}

"""Messages that are no events, on each topic and over each log: dead-lettered with reason, and the consumer goes on."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from pynomaly_tasks.core.event import ANOMALY_EVENTS, AUDIT_EVENTS, JOB_EVENTS, SYSTEM_EVENTS, Event
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.system_events import SystemHealth
from pynomaly_tasks.core.work_events import AnomalyDetected
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.events.cloudevents import encode
from pynomaly_tasks.events.dead_letters import CUT_TO_BYTES, EventLetter
from pynomaly_tasks.events.ports import Record
from support.event_groups import (
    SOURCE,
    EventWorld,
    cancel_requested,
    completed,
    create_topics,
    event_of,
    settings_of,
    until,
)

TOPICS = [JOB_EVENTS, ANOMALY_EVENTS, SYSTEM_EVENTS, AUDIT_EVENTS]


@pytest.fixture(params=["kafka", "redis_streams"])
def world(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> Iterator[EventWorld]:
    kafka = None
    if request.param == "kafka":
        kafka = request.getfixturevalue("module_kafka")
        create_topics(kafka)
    redis_server.client(3).flushall()
    # Redis Streams refuse what is larger than an event may be, and so does Kafka unless its topics allow more.
    events = {"max_event_kb": 512 if kafka is not None else 4_096}
    world = EventWorld(settings_of(tmp_path, redis_server, kafka, events=events))
    yield world
    world.close()


def good(topic: str) -> Event:
    key = new_id()
    if topic == JOB_EVENTS:
        return completed(key)
    if topic == AUDIT_EVENTS:
        return cancel_requested(key)
    if topic == SYSTEM_EVENTS:
        return event_of(SystemHealth(jobs={}, messages_ready={}), "health")
    return event_of(
        AnomalyDetected(
            job_id=key, dataset="taxi.csv", result="/r", detector="ecod", threshold=1.0,
            n_scored=10, n_anomalies=0, batch=1, n_batches=1, anomalies=(),
        ),
        key,
    )  # fmt: skip


def with_headers(record: Record, **changes: bytes | None) -> Record:
    headers = dict(record.headers) | {name: value for name, value in changes.items() if value is not None}
    kept = [
        (name, value) for name, value in headers.items() if name not in changes or changes[name] is not None
    ]
    return Record(topic=record.topic, key=record.key, value=record.value, headers=kept)


def with_value(record: Record, value: bytes | None) -> Record:
    return Record(topic=record.topic, key=record.key, value=value, headers=record.headers)


def bad_ones(topic: str) -> dict[str, tuple[str, Record]]:
    """Name to the reason it must be given, and the message."""
    record = encode(good(topic), SOURCE)
    event_type = dict(record.headers)["ce_type"].decode()
    newer = f"urn:pynomaly:event:{event_type}:99".encode()
    return {
        "no CloudEvent": (
            "not_a_cloudevent",
            Record(topic=topic, key=record.key, value=b"hello", headers=[("content-type", b"text/plain")]),
        ),
        "no headers at all": ("not_a_cloudevent", Record(topic=topic, key=None, value=b"\x00\xff")),
        "structured, cut off": (
            "not_json",
            Record(
                topic=topic, key=record.key, value=b'{"specversion": "1.0", "id"',
                headers=[("content-type", b"application/cloudevents+json")],
            ),
        ),
        "unknown type": ("unknown_type", with_headers(record, ce_type=b"job.exploded")),
        "newer version": ("newer_version", with_headers(record, ce_dataschema=newer)),
        "no version": ("unknown_version", with_headers(record, ce_dataschema=None)),
        "wrong schema": ("bad_data", with_value(record, orjson.dumps({"job_id": 7}))),
        "no JSON": ("not_json", with_value(record, b"{")),
        "null value": ("null_value", with_value(record, None)),
        "header that is no UTF-8": ("not_utf8", with_headers(record, ce_source=b"\xff\xfe")),
        "foreign header that is no UTF-8": ("not_utf8", with_headers(record, tenant=b"\xff\xfe")),
        "key that is no UTF-8": (
            "not_utf8",
            Record(topic=topic, key=b"\xff\xfe", value=record.value, headers=record.headers),
        ),
        "impossible time": ("bad_time", with_headers(record, ce_time=b"yesterday")),
    }  # fmt: skip


@pytest.mark.parametrize("topic", TOPICS)
def test_message_that_is_no_event_is_dead_lettered_with_its_reason_and_the_consumer_goes_on(
    world: EventWorld, topic: str
):
    async def scenario() -> None:
        before, after = good(topic), good(topic)
        bad = bad_ones(topic)
        marked = {name: with_headers(record, name=name.encode()) for name, (_, record) in bad.items()}
        await world.append(before, *marked.values(), after)

        async with world.running("dashboard"):
            await until(lambda: {before.id, after.id} <= seen(world), "the good ones")
            await until(none_left, "the bad ones")

        letters = {
            dict(letter.record.headers)["name"].decode(): letter
            for letter in await letters_of(world, topic)
            if "name" in dict(letter.record.headers)
        }
        assert {name: letter.reason for name, letter in letters.items()} == {
            name: reason for name, (reason, _) in bad.items()
        }
        for name, letter in letters.items():
            assert (letter.n_attempts, bool(letter.message)) == (1, True)
            kept = letter.record
            assert (kept.key, kept.value, list(kept.headers)) == (
                marked[name].key, marked[name].value, list(marked[name].headers),
            ), name  # fmt: skip

    async def none_left() -> bool:
        return await world.lag("dashboard", topic) == 0

    run(scenario())


@pytest.mark.parametrize("topic", TOPICS)
def test_value_of_2_mib_is_dead_lettered_at_least_as_its_beginning(world: EventWorld, topic: str):
    async def scenario() -> None:
        value = os.urandom(2_097_152)  # which no compression makes smaller
        large = with_value(encode(good(topic), SOURCE), value)
        await world.append(large, after := good(topic))

        async with world.running("dashboard"):
            await until(lambda: after.id in seen(world), "the next one")

        sizes = {
            (letter.reason, letter.cut_from_bytes, len(letter.record.value or b""))
            for letter in await letters_of(world, topic)
            if (letter.record.value or b"").startswith(value[:1_000])
        }
        # Kafka's topics take it here, their dead letters do not; Redis Streams take what an event may have.
        assert sizes in ({("too_large", 2_097_152, CUT_TO_BYTES)}, {("not_json", None, 2_097_152)})

    run(scenario())


def test_type_that_another_version_of_the_platform_added_does_not_stop_the_other_groups(world: EventWorld):
    async def scenario() -> None:
        await world.append(with_headers(encode(completed("j"), SOURCE), ce_type=b"job.forgotten"))
        async with world.running("dashboard", "alerts", "webhooks"):
            for group in ("dashboard", "alerts", "webhooks"):
                await until(lambda group=group: gone(group), f"{group} to go on")

    async def gone(group: str) -> bool:
        return await world.lag(group, JOB_EVENTS) == 0

    run(scenario())


async def letters_of(world: EventWorld, topic: str) -> list[EventLetter]:
    return [one for one in await world.letters() if one.group == "dashboard" and one.record.topic == topic]


def seen(world: EventWorld) -> set[str]:
    streams = ("dashboard:stream", "activity:stream", "health:stream")
    return {frame["event_id"] for stream in streams for frame in world.frames(stream)}


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))

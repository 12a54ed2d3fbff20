"""A member of a group that stands still until another one reads its partitions, and then goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynomaly_tasks.core.event import AUDIT_EVENTS, JOB_EVENTS, Event
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.event_groups import (
    EventWorld,
    cancel_requested,
    completed,
    create_topics,
    failed,
    settings_of,
    until,
)
from support.processes import Program, Programs

N_KEYS = 20


class World(EventWorld):
    env: dict[str, str]


@pytest.fixture(params=[pytest.param("kafka", marks=pytest.mark.slow), "redis_streams"])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, own_redis: RedisServer, postgres_url: str
) -> Iterator[World]:
    """On PostgreSQL: a process that stands still may hold SQLite's only lock, for as long as it does."""
    kafka = None
    env = {
        "PYNOMALY_REDIS__URL": own_redis.url,
        "PYNOMALY_DATA__DIRECTORY": str(tmp_path),
        "PYNOMALY_STORE__URL": postgres_url,
        "PYNOMALY_LIVE__STREAM_LENGTH": "1000000",
    }
    if request.param == "kafka":
        kafka = request.getfixturevalue("module_kafka")
        create_topics(kafka)
        env |= {"PYNOMALY_EVENTS__BACKEND": "kafka", "PYNOMALY_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap}
    world = World(settings_of(tmp_path, own_redis, kafka, store={"url": postgres_url}))
    world.env = env
    yield world
    world.close()


def test_member_that_was_taken_for_dead_applies_nothing_twice_and_nothing_out_of_order(
    world: World, programs: Programs
) -> None:
    keys = [new_id() for _ in range(N_KEYS)]
    sent: list[Event] = []

    async def append(n_rounds: int) -> None:
        for number in range(n_rounds):
            events = [completed(key) if number % 2 else failed(key) for key in keys]
            audits = [cancel_requested(key) for key in keys]
            sent.extend([*events, *audits])
            await world.append(*events, *audits)

    async def applied(group: str, topic: str) -> bool:
        return await world.lag(group, topic) == 0

    def start(group: str) -> Program:
        return programs.python("-m", f"workers.consumer_{group}", name=group, env=world.env)

    async def scenario() -> None:
        await append(2)
        first = {group: start(group) for group in ("dashboard", "audit")}
        for group in first:
            await until(lambda group=group: applied(group, AUDIT_EVENTS), f"{group} to be there", 60)
        filling = asyncio.create_task(append(20))
        await until(lambda: len(world.frames("activity:stream")) > 3 * N_KEYS, "work in hand", 60)
        for program in first.values():
            program.pause()
        second = [start(group) for group in first]
        await filling
        for group in first:
            await until(lambda group=group: applied(group, AUDIT_EVENTS), f"another {group} to go on", 90)
        for program in first.values():
            program.resume()
        await append(3)
        for group in first:
            await until(lambda group=group: applied(group, AUDIT_EVENTS), f"{group} after all", 90)
        await until(lambda: applied("dashboard", JOB_EVENTS), "the jobs", 90)
        assert all(program.is_running() for program in [*first.values(), *second])

    asyncio.run(asyncio.wait_for(scenario(), 280))

    for stream, topic in (("dashboard:stream", JOB_EVENTS), ("activity:stream", AUDIT_EVENTS)):
        shown = [frame["event_id"] for frame in world.frames(stream)]
        for key in keys:
            expected = [event.id for event in sent if event.topic == topic and event.key == key]
            assert [event_id for event_id in shown if event_id in set(expected)] == expected
    rows = [entry.event_id for _, entry in world.platform.store.audit.list(limit=100_000)]
    expected = {event.id for event in sent if event.topic == AUDIT_EVENTS}
    assert sorted(event_id for event_id in rows if event_id in expected) == sorted(expected)

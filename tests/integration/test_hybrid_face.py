"""One face for work, facts and updates, from plain code and from coroutines."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynomaly_tasks import (
    enqueue_job,
    enqueue_job_async,
    publish_event,
    publish_event_async,
    stream_update,
    stream_update_async,
)
from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidRequest
from pynomaly_tasks.realtime.streams import STREAM_NAMES
from support.jobs import settings_from
from support.own_events import OrderPlaced, published


@pytest.fixture
def platform(tmp_path: Path, own_redis: RedisServer) -> Iterator[Platform]:
    platform = Platform(
        settings_from(
            {"PYNOMALY_DATA__DIRECTORY": str(tmp_path / "platform"), "PYNOMALY_REDIS__URL": own_redis.url}
        )
    )
    yield platform
    platform.close()


def shown(redis: RedisServer, stream: str) -> list[Any]:
    with redis.client(database=3) as client:
        entries = client.xrange(f"{stream}:stream")
        return [json.loads(fields[b"data"]) for _, fields in entries]


def dataset(platform: Platform) -> str:
    file = platform.settings.uploads_directory() / "values.csv"
    file.parent.mkdir(parents=True)
    file.write_text("x\n" + "\n".join(map(str, range(50))) + "\n")
    return str(file)


def test_plain_code_enqueues_publishes_and_streams(platform: Platform, own_redis: RedisServer) -> None:
    job = enqueue_job("profile_dataset", {"dataset": dataset(platform)}, platform=platform, priority=3)
    publish_event(OrderPlaced(number=7), key="k", platform=platform)
    for stream in STREAM_NAMES:
        stream_update("order", {"number": 7, "tags": ["a"]}, stream=stream, platform=platform)

    assert (job.state, job.priority) == (JobState.QUEUED, 3)
    assert platform.queue.ready_ids("data_processing") == {job.id}
    assert published(platform) == {"k": [7]}
    for stream in STREAM_NAMES:
        assert {"type": "order", "number": 7, "tags": ["a"]} in shown(own_redis, stream)


def test_coroutines_enqueue_publish_and_stream(platform: Platform, own_redis: RedisServer) -> None:
    source = dataset(platform)

    async def scenario() -> set[str]:
        jobs = await asyncio.gather(
            *(enqueue_job_async("profile_dataset", {"dataset": source}, platform=platform) for _ in range(3))
        )
        await publish_event_async(OrderPlaced(number=8), key="k", platform=platform)
        await stream_update_async("order", {"number": 8}, platform=platform)
        return {job.id for job in jobs}

    ids = asyncio.run(scenario())

    assert platform.queue.ready_ids("data_processing") == ids
    assert published(platform) == {"k": [8]}
    assert shown(own_redis, "activity") == [{"type": "order", "number": 8}]


@pytest.mark.parametrize(
    ("update_type", "data", "stream", "says"),
    [
        ("order", {}, "no such", "stream: is 'no such'; the streams are dashboard"),
        ("", {}, "activity", "update_type: is ''"),
        ("<b>", {}, "activity", "update_type: is '<b>'"),
        ("order", [1], "activity", "data: must map names"),
        ("order", {1: 2}, "activity", "data: must map names"),
        ("order", {"type": "x"}, "activity", "data.type: is what update_type says"),
        ("order", {"at": {1}}, "activity", "data: is no JSON"),
        ("order", {"text": "x" * 70_000}, "activity", "at most 65,536 are allowed"),
    ],
)
def test_update_that_cannot_be_shown_is_refused(
    platform: Platform, own_redis: RedisServer, update_type: str, data: Any, stream: str, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(says)}|{re.escape(says)}$"):
        stream_update(update_type, data, stream=stream, platform=platform)

    assert shown(own_redis, "activity") == []


def test_update_while_redis_is_away_costs_nothing_but_itself(
    platform: Platform, own_redis: RedisServer
) -> None:
    own_redis.kill()

    stream_update("order", {"number": 1}, platform=platform)
    with pytest.raises(InvalidRequest, match="kind: 'no such' is unknown"):
        enqueue_job("no such", {}, platform=platform)

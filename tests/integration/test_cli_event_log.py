"""``pynomaly events forget-group``, and what is kept for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

import pytest

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.events.ports import Partition
from pynomaly_tasks.events.topics import default_topics_file, read_topics
from pynomaly_tasks.settings import Settings
from pynomaly_tasks.settings.engine import RedisSettings
from support.command_line import run


class Quiet:
    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Nothing was begun."""


@pytest.fixture
def env(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {"PYNOMALY_REDIS__URL": redis_server.url, "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data")}


def test_group_is_forgotten_once_and_not_while_it_runs(
    redis_server: RedisServer, env: dict[str, str]
) -> None:
    platform = Platform(Settings(redis=RedisSettings(url=redis_server.url)))

    async def scenario() -> None:
        consumer = platform.event_consumer("gone", ["job_events"])
        await consumer.start(Quiet())
        refused = await asyncio.to_thread(run, "events", "forget-group", "gone", env=env)
        await consumer.stop()
        assert refused.returncode == 1
        assert "still runs" in refused.stderr

    asyncio.run(scenario())

    done = run("events", "forget-group", "gone", env=env)
    again = run("events", "forget-group", "gone", env=env)

    assert (done.returncode, done.stdout) == (0, "forgot gone\n")
    assert again.returncode == 1
    assert "no group 'gone'" in again.stderr


def test_with_kafka_there_is_nothing_to_forget(env: dict[str, str]) -> None:
    done = run("events", "forget-group", "gone", env={**env, "PYNOMALY_EVENTS__BACKEND": "kafka"})

    assert done.returncode == 1
    assert "events.backend is kafka" in done.stderr
    assert "Traceback" not in done.stderr


def test_retention_of_a_topic_is_read_or_named_when_it_is_no_number(tmp_path: Path) -> None:
    text = default_topics_file().read_text()
    file = tmp_path / "topics.yaml"
    file.write_text(text.replace("retention.ms: 2592000000", "retention.ms: a month"))

    assert read_topics()["dead_letter_events"].retention_s == 30 * 86_400
    with pytest.raises(InvalidSettings, match="'a month'"):
        _ = read_topics(file)["dead_letter_events"].retention_s

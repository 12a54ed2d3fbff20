"""The log of events on the command line: whether it answers, forgetting a group, what is kept how long."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

import pytest

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.events.ports import Partition
from pynomaly_tasks.events.topics import default_topics_file, read_topics
from pynomaly_tasks.settings import Settings
from pynomaly_tasks.settings.engine import RedisSettings
from support.command_line import run
from support.kafka import KafkaNode


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

    listed = run("events", "groups", env=env)
    done = run("events", "forget-group", "gone", env=env)
    again = run("events", "forget-group", "gone", env=env)

    assert listed.returncode == 0, listed.stderr
    assert ["gone", "job_events", "0"] in [line.split() for line in listed.stdout.splitlines()]
    assert (done.returncode, done.stdout) == (0, "forgot gone\n")
    assert again.returncode == 1
    assert "no group 'gone'" in again.stderr


def test_with_kafka_there_is_nothing_to_forget(env: dict[str, str]) -> None:
    done = run("events", "forget-group", "gone", env={**env, "PYNOMALY_EVENTS__BACKEND": "kafka"})

    assert done.returncode == 1
    assert "events.backend is kafka" in done.stderr
    assert "Traceback" not in done.stderr


def test_config_check_says_that_kafka_does_not_answer(env: dict[str, str]) -> None:
    away = {
        "PYNOMALY_EVENTS__BACKEND": "kafka",
        "PYNOMALY_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{find_free_port()}",
        "PYNOMALY_KAFKA__TIMEOUT_S": "2",
    }

    done = run("config", "check", env={**env, **away})

    assert done.returncode == 1
    assert "\nevents (events.backend, kafka): Kafka gave no answer" in f"\n{done.stderr}"
    assert "see kafka.bootstrap_servers" in done.stderr
    assert "Traceback" not in done.stderr


def test_config_check_names_the_topic_that_kafka_does_not_have(
    env: dict[str, str], module_kafka: KafkaNode, tmp_path: Path
) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(f"{default_topics_file().read_text()}  not_made_yet: {{partitions: 1}}\n")
    topics = {
        "PYNOMALY_EVENTS__BACKEND": "kafka",
        "PYNOMALY_KAFKA__BOOTSTRAP_SERVERS": module_kafka.bootstrap,
        "PYNOMALY_KAFKA__TOPICS_FILE": str(file),
    }

    missing = run("config", "check", env={**env, **topics})
    made = run("kafka", "create-topics", env={**env, **topics})
    there = run("config", "check", env={**env, **topics})

    assert missing.returncode == 1
    assert "not_made_yet" in missing.stderr
    assert "pynomaly kafka create-topics" in missing.stderr
    assert made.returncode == 0, made.stderr
    assert there.returncode == 0, there.stderr
    assert "events (events.backend, kafka): ok" in there.stdout


def test_retention_of_a_topic_is_read_or_named_when_it_is_no_number(tmp_path: Path) -> None:
    text = default_topics_file().read_text()
    file = tmp_path / "topics.yaml"
    file.write_text(text.replace("retention.ms: 2592000000", "retention.ms: a month"))

    assert read_topics()["dead_letter_events"].retention_s == 30 * 86_400
    with pytest.raises(InvalidSettings, match="'a month'"):
        _ = read_topics(file)["dead_letter_events"].retention_s

"""`pynomaly kafka create-topics` makes what is missing, changes nothing, and says what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pynomaly_tasks.cli.kafka import DIFFERS
from pynomaly_tasks.events.topics import REQUIRED_TOPICS
from support.kafka import KafkaNode
from support.processes import Program, Programs
from support.waiting import wait_until

FILE = """
defaults:
  config: {{retention.ms: 604800000, cleanup.policy: delete}}
topics:
  {prefix}one: {{partitions: {n_one}}}
  {prefix}two: {{partitions: 1, config: {{retention.ms: {retention}}}}}
"""


@pytest.fixture
def create_topics(module_kafka: KafkaNode, programs: Programs, tmp_path: Path):
    prefix = module_kafka.unique_name("topics") + "-"
    platform_topics = "".join(f"  {name}: {{partitions: 1}}\n" for name in REQUIRED_TOPICS)

    def run(*options: str, n_one: int = 2, retention: int = 1000, **env: str) -> Program:
        file = tmp_path / "topics.yaml"
        file.write_text(FILE.format(prefix=prefix, n_one=n_one, retention=retention) + platform_topics)
        settings = {
            "PYNOMALY_KAFKA__BOOTSTRAP_SERVERS": module_kafka.bootstrap,
            "PYNOMALY_KAFKA__TOPICS_FILE": str(file),
            "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "platform"),
            "PYNOMALY_KAFKA__TIMEOUT_S": "10",
            **env,
        }
        program = programs.python("-m", "pynomaly_tasks.cli", "kafka", "create-topics", *options,
                                  name="create-topics", env=settings)  # fmt: skip
        wait_until(lambda: not program.is_running(), 40, "the command to end")
        return program

    run.prefix = prefix
    return run


def test_topics_are_created_as_described_and_only_once(module_kafka: KafkaNode, create_topics) -> None:
    prefix = create_topics.prefix
    dry = create_topics("--dry-run")
    assert dry.returncode == DIFFERS
    assert f"missing: {prefix}one (2 partitions)" in dry.output()
    assert f"{prefix}one" not in module_kafka.topics()

    made = create_topics()
    assert made.returncode == 0, made.output()
    assert f"created: {prefix}one (2 partitions)" in made.output()
    assert len(module_kafka.topics()[f"{prefix}one"]["partitions"]) == 2
    assert len(module_kafka.topics()[f"{prefix}two"]["partitions"]) == 1

    for again in (create_topics(), create_topics("--dry-run")):
        assert again.returncode == 0, again.output()
        assert "created" not in again.output()
        assert "missing" not in again.output()


def test_what_differs_is_said_and_left_alone(module_kafka: KafkaNode, create_topics) -> None:
    prefix = create_topics.prefix
    assert create_topics().returncode == 0

    differing = create_topics(n_one=3, retention=2000)
    assert differing.returncode == DIFFERS
    assert f"{prefix}one\tpartitions\t3\t2" in differing.output()
    assert f"{prefix}two\tretention.ms\t2000\t1000" in differing.output()
    assert len(module_kafka.topics()[f"{prefix}one"]["partitions"]) == 2

    added = create_topics("--add-partitions-moving-keys", n_one=3)
    assert added.returncode == 0, added.output()
    assert f"partitions added: {prefix}one (3 now)" in added.output()
    wait_until(
        lambda: len(module_kafka.topics()[f"{prefix}one"]["partitions"]) == 3, 10, "the third partition"
    )

    # There is no way back: fewer than there are is only said.
    fewer = create_topics("--add-partitions-moving-keys")
    assert fewer.returncode == DIFFERS
    assert f"{prefix}one\tpartitions\t2\t3" in fewer.output()


def test_what_kafka_refuses_is_said(module_kafka: KafkaNode, create_topics, tmp_path: Path) -> None:
    file = tmp_path / "refused.yaml"
    topics = "".join(f"  {name}: {{partitions: 1}}\n" for name in REQUIRED_TOPICS)
    name = module_kafka.unique_name()
    file.write_text(f"topics:\n{topics}  {name}: {{partitions: 1, replication_factor: 3}}\n")
    refused = create_topics(PYNOMALY_KAFKA__TOPICS_FILE=str(file))

    assert refused.returncode == 1
    assert f"Kafka did not create {name}" in refused.output()
    assert "replication factor" in refused.output().lower()

    file.write_text("topics: {}")
    unreadable = create_topics(PYNOMALY_KAFKA__TOPICS_FILE=str(file))
    assert unreadable.returncode == 1
    assert "topics.job_events: missing" in unreadable.output()


def test_a_kafka_that_is_not_there_is_said(create_topics) -> None:
    away = create_topics(PYNOMALY_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")

    assert away.returncode == 1
    assert "127.0.0.1:1 is closed: is Kafka running there? see kafka.bootstrap_servers" in away.output()

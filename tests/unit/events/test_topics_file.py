"""The file of topics: this version's own, and every way in which another may be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.events.topics import REQUIRED_TOPICS, default_topics_file, read_topics

WHOLE = "".join(f"  {name}: {{partitions: 1}}\n" for name in REQUIRED_TOPICS)


def read(tmp_path: Path, text: str | bytes):
    file = tmp_path / "topics.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_topics(file)


def test_own_file_has_the_topics_of_the_platform() -> None:
    topics = read_topics()

    assert {name: topic.n_partitions for name, topic in topics.items()} == {
        "anomaly_events": 3, "job_events": 2, "system_events": 1, "audit_events": 5, "dead_letter_events": 1,
    }  # fmt: skip
    assert topics["audit_events"].config["retention.ms"] == str(365 * 86_400_000)
    assert topics["job_events"].config == {
        "cleanup.policy": "delete", "retention.ms": "604800000", "min.insync.replicas": "1",
        "message.timestamp.type": "LogAppendTime",
    }  # fmt: skip
    assert default_topics_file().exists()


def test_a_topic_overrides_the_defaults(tmp_path: Path) -> None:
    topics = read(
        tmp_path,
        "defaults: {replication_factor: 3, config: {a: 1, b: true}}\n"
        f"topics:\n{WHOLE}  more: {{partitions: 7, replication_factor: 2, config: {{a: 2.5, c: x}}}}\n",
    )

    assert (topics["more"].n_partitions, topics["more"].replication_factor) == (7, 2)
    assert topics["more"].config == {"a": "2.5", "b": "true", "c": "x"}
    assert topics["job_events"].replication_factor == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file: names with their values, not NoneType"),
        ("- a\n", "the file: names with their values, not list"),
        ("topics: {a: {partitions: 1}}", "topics.job_events: missing"),
        (f"topic:\n{WHOLE}", "topic: unknown; known are defaults, topics"),
        (f"topics:\n{WHOLE}  x: {{}}\n", "topics.x.partitions: missing"),
        (f"topics:\n{WHOLE}  x: {{partitions: 0}}\n", "topics.x.partitions: a number from 1 to 1000, not 0"),
        (
            f"topics:\n{WHOLE}  x: {{partitions: true}}\n",
            "topics.x.partitions: a number from 1 to 1000, not True",
        ),
        (
            f"topics:\n{WHOLE}  x: {{partitions: '3'}}\n",
            "topics.x.partitions: a number from 1 to 1000, not '3'",
        ),
        (f"topics:\n{WHOLE}  x: {{partitions: 1, retention: 1}}\n", "topics.x.retention: unknown"),
        (f"topics:\n{WHOLE}  x: {{partitions: 1, config: {{a: [1]}}}}\n", "topics.x.config.a: one value"),
        (f"topics:\n{WHOLE}  'a b': {{partitions: 1}}\n", "topics.a b: no name of a topic"),
        (f"topics:\n{WHOLE}  ..: {{partitions: 1}}\n", "topics...: no name of a topic"),
        (f"topics:\n{WHOLE}  x: {{partitions: 1, replication_factor: 10}}\n", "from 1 to 9, not 10"),
        (f"topics:\n{WHOLE}  job_events: {{partitions: 2}}\n", "'job_events' is there twice"),
        (f"topics:\n{WHOLE}  x: {{partitions: 1\n", "is no YAML"),
        (b"topics: \xff", "is no UTF-8 text"),
        ("topics: !!python/object/apply:os.getcwd []", "is no YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        read(tmp_path, text)

    assert says in str(refused.value)
    assert "kafka.topics_file" in str(refused.value)
    assert "topics.yaml" in str(refused.value)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings) as refused:
        read(tmp_path, f"topics:\n{WHOLE}  x: {{partitions: -1}}\n  y: {{partitions: []}}\n")

    assert len(refused.value.problems) == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"nowhere\.yaml cannot be read"):
        read_topics(tmp_path / "nowhere.yaml")

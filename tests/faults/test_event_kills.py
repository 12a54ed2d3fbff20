"""Jobs while the relay, the consumers and Apache Kafka are killed in turn: every event arrives, once, in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.event_groups import create_topics
from support.event_kills import ENV, EventKillRun, Hook, run_and_check
from support.jobs import Engine, EngineStarter
from support.kafka import KafkaNode

SEED = 20261122


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@pytest.fixture
def kafka_engine(
    start_engine: EngineStarter, own_redis: RedisServer, own_kafka: KafkaNode, postgres_url: str, hook: Hook
) -> Engine:
    create_topics(own_kafka)
    kafka = {
        "PYNOMALY_EVENTS__BACKEND": "kafka",
        "PYNOMALY_KAFKA__BOOTSTRAP_SERVERS": own_kafka.bootstrap,
    }
    engine: Engine = start_engine(own_redis.url, postgres_url, {**ENV, **kafka, **hook.env()})
    return engine


def test_every_event_arrives_once_and_in_order_while_all_are_killed_in_turn(
    kafka_engine: Engine, own_kafka: KafkaNode, hook: Hook
) -> None:
    run = EventKillRun(kafka_engine, own_kafka, hook, n_jobs=100, n_kills=6, seed=SEED)

    problems = run_and_check(run, SEED)()

    assert problems == {}
    assert set(run.kills) == {"relay", "dashboard", "audit", "alerts", "webhooks", "log"}
    run.spoil()
    seen = run.check().problems()
    assert {"not_in_topic", "phantoms", "reordered_keys", "not_applied", "applied_twice"} <= seen.keys()
    assert {"dashboard", "audit"} <= seen["not_applied"].keys()


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_every_event_of_2_000_jobs_arrives_once_and_in_order_over_60_kills(
    kafka_engine: Engine, own_kafka: KafkaNode, hook: Hook
) -> None:
    run = EventKillRun(kafka_engine, own_kafka, hook, n_jobs=2_000, n_kills=60, seed=SEED)

    problems = run_and_check(run, SEED)()

    assert problems == {}
    assert min(run.kills.values()) >= 10

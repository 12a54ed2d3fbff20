"""A platform on one log of events, with events put straight into its topics, and groups run in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson
import redis
import yaml
from prometheus_client import CollectorRegistry

from pynomaly_tasks.bootstrap import Platform, build_platform
from pynomaly_tasks.consumers.run import run_group
from pynomaly_tasks.core.audit_events import JobCancelRequested
from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.core.job_events import Failure, JobCompleted, JobFailed
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.events.cloudevents import encode
from pynomaly_tasks.events.consumer_metrics import ConsumerMetrics
from pynomaly_tasks.events.dead_letters import DEAD_LETTER_EVENTS, EventLetter, open_letters
from pynomaly_tasks.events.ports import Record
from pynomaly_tasks.settings import Settings
from support.kafka_topics import KafkaTopics
from support.processes import ROOT

T = TypeVar("T")

SOURCE = "/pynomaly"


def settings_of(
    directory: Path, server: RedisServer, kafka: KafkaTopics | None, **sections: Mapping[str, Any]
) -> Settings:
    """Settings of a platform whose events go to Kafka, or where there is none to Redis."""
    events: dict[str, Any] = {"backend": "redis_streams" if kafka is None else "kafka", "backoff_s": 0.02}
    sections = {**sections, "events": {**events, "backoff_max_s": 0.1, **sections.get("events", {})}}
    if kafka is not None:
        sections["kafka"] = {"bootstrap_servers": kafka.bootstrap, **sections.get("kafka", {})}
    return Settings(redis={"url": server.url}, data={"directory": directory}, **sections)


def create_topics(kafka: KafkaTopics) -> None:
    """The platform's topics, where they are missing."""
    wanted = yaml.safe_load((ROOT / "config" / "kafka_topics.yaml").read_text())["topics"]
    known = kafka.topics()
    for name, topic in wanted.items():
        if name not in known:
            # A server that takes larger messages than the platform has, as another producer's; but not for
            # dead letters.
            config = {} if name == DEAD_LETTER_EVENTS else {"max.message.bytes": 4_000_000}
            kafka.create_topic(name, topic["partitions"], config=config)


def event_of(data: EventData, key: str, **envelope: Any) -> Event:
    """An event as the platform would write it."""
    plain = orjson.loads(orjson.dumps(asdict(data), default=dict))
    return Event(
        **{
            "id": new_id(),
            "type": data.type,
            "version": data.version,
            "topic": data.topic,
            "key": key,
            "occurred_at": datetime.now(UTC),
            "data": plain,
            **envelope,
        }
    )


def completed(job_id: str, **envelope: Any) -> Event:
    """``job.completed``."""
    data = JobCompleted(
        job_id=job_id, kind="detect_anomalies", queue="anomaly_detection", state=JobState.SUCCEEDED,
        attempt=1, tags=("nightly",), dataset="taxi.csv", summary={"anomalies_found": 3}, result="/r",
    )  # fmt: skip
    return event_of(data, job_id, **envelope)


def failed(job_id: str, kind: str = "detect_anomalies", tags: tuple[str, ...] = (), **envelope: Any) -> Event:
    """``job.failed``."""
    data = JobFailed(
        job_id=job_id, kind=kind, queue="anomaly_detection", state=JobState.FAILED, attempt=1, tags=tags,
        dataset="taxi.csv", error=Failure(type="InvalidDataset", message="dataset: is empty"),
    )  # fmt: skip
    return event_of(data, job_id, **envelope)


def cancel_requested(job_id: str, **envelope: Any) -> Event:
    """``audit.job.cancel_requested``."""
    data = JobCancelRequested(
        actor="ana", door="web", address="10.0.0.7", job_id=job_id, state=JobState.RUNNING, reason="typo"
    )
    return event_of(data, job_id, **envelope)


class EventWorld:
    """The platform, and what a test does with its events."""

    def __init__(self, settings: Settings) -> None:
        self.platform: Platform = build_platform(settings)
        self.registry = CollectorRegistry()
        self.metrics = ConsumerMetrics(self.registry)
        self.client = redis.Redis.from_url(settings.redis.streams(), decode_responses=True)

    def close(self) -> None:
        self.client.close()
        self.platform.close()

    async def append(self, *records: Record | Event) -> None:
        """Put records, or events as the relay does, into the topics, all of them for sure."""
        producer = self.platform.event_producer()
        await producer.start()
        try:
            encoded = [encode(one, SOURCE) if isinstance(one, Event) else one for one in records]
            assert [error for error in await producer.send(encoded) if error is not None] == []
        finally:
            await producer.stop()

    async def lag(self, group: str, *topics: str) -> int:
        """Records that the group has still to apply."""
        return sum((await self.platform.event_reader().lag(group, topics)).values())

    async def letters(self) -> list[EventLetter]:
        """Every dead letter there is."""
        records = await self.platform.event_reader().read(
            DEAD_LETTER_EVENTS, since=None, until=None, max_records=10_000
        )
        return open_letters(records)

    def frames(self, stream: str = "dashboard:stream") -> list[dict[str, Any]]:
        """What people who watch are sent."""
        return [orjson.loads(fields["data"]) for _, fields in self.client.xrange(stream)]

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    @asynccontextmanager
    async def running(self, *groups: str) -> AsyncIterator[None]:
        """The groups, each one member, until the end of the block."""
        stop = asyncio.Event()
        tasks = [
            asyncio.create_task(run_group(self.platform, name, stop, metrics=self.metrics)) for name in groups
        ]
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 60)


async def until(ask: Callable[[], T | Coroutine[Any, Any, T]], what: str, timeout_s: float = 30.0) -> T:
    """The first true answer."""
    seen: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = ask()
                seen = await answer if asyncio.iscoroutine(answer) else answer
                if seen:
                    return seen  # type: ignore[no-any-return]
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited {timeout_s:g} s for {what}; the last seen was {seen!r}") from None

"""The one place that names concrete parts and joins them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pynomaly_tasks.core.audit_events import Actor
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.job import Job, Json
from pynomaly_tasks.jobs.context import Kind
from pynomaly_tasks.jobs.submission import Submission
from pynomaly_tasks.kinds import KINDS
from pynomaly_tasks.queueing.app import build_app

if TYPE_CHECKING:
    from pynomaly_tasks.datasets.opener import DatasetOpener
    from pynomaly_tasks.events.kafka.connection import KafkaConnection
    from pynomaly_tasks.events.logs import EventLog
    from pynomaly_tasks.events.ports import Consumer, Producer, Reader
    from pynomaly_tasks.events.publish import EventPublisher
    from pynomaly_tasks.events.relay import Relay
    from pynomaly_tasks.events.topics import Topic
    from pynomaly_tasks.jobs.announce import Announcer
    from pynomaly_tasks.jobs.controls import Controls
    from pynomaly_tasks.jobs.rescue import Rescuer
    from pynomaly_tasks.jobs.run import Runner
    from pynomaly_tasks.jobs.submit import Submitter
    from pynomaly_tasks.kinds.services import Services
    from pynomaly_tasks.messaging import QueueManager
    from pynomaly_tasks.queueing.queue import CeleryQueue
    from pynomaly_tasks.realtime.bell import OutboxBell
    from pynomaly_tasks.realtime.publisher import StreamPublisher
    from pynomaly_tasks.settings import Settings
    from pynomaly_tasks.settings.events import KafkaSettings
    from pynomaly_tasks.store.artifacts import ArtifactStore
    from pynomaly_tasks.store.store import Store


def _settings() -> Settings:
    from pynomaly_tasks.settings import current_settings

    return current_settings()


#: The Celery app. Importing it connects to nothing.
app = build_app(_settings, set_as_current=True)


#: A relay and consumers shall notice sooner than a worker that Redis does not answer.
_LONGEST_REDIS_WAIT_S = 5.0

_kinds: dict[str, Kind] = dict(KINDS)


def add_kind(kind: Kind) -> None:
    """Teach this process one more kind of job, which is then submitted and run like ours.

    Call it where the kind is defined, and import that in every process that submits or runs it.
    """
    _kinds[kind.name] = kind


def add_event_type(model: type[EventData]) -> None:
    """Teach this process one more type of events, which is then read and shown like ours.

    Call it where the class is defined, and import that in every process that publishes or consumes
    such events. Raises ValueError when another class has its type and version.
    """
    from pynomaly_tasks.events.catalog import CATALOG

    CATALOG.add(model)


class Platform:
    """Every part of the platform, each made when it is first needed."""

    def __init__(self, settings: Settings, kinds: Mapping[str, Kind] | None = None) -> None:
        """``kinds`` None takes those of this process: ours, and what `add_kind` added."""
        self.settings = settings
        self.kinds: Mapping[str, Kind] = MappingProxyType(_kinds) if kinds is None else kinds

    def submit(self, kind: str, request: Mapping[str, Any], **options: Any) -> Job:
        """Accept one job; ``options`` are the fields of `JobOptions`.

        Returns once the job is stored; from then on it ends succeeded, failed, cancelled or
        dead-lettered. Raises InvalidRequest, IdempotencyMismatch, StoreUnavailable.
        """
        return self.submitter.submit(Submission(kind=kind, request=request, options=options))

    def submit_many(self, kind: str, requests: Sequence[Mapping[str, Any]], **options: Any) -> list[Job]:
        """Accept up to 10,000 jobs of one kind, all or none, in one transaction and one pipeline."""
        return self.submitter.submit_many(
            [Submission(kind=kind, request=request, options=options) for request in requests]
        )

    def cancel(self, job_id: str, reason: str = "", *, actor: Actor | None = None) -> Job:
        """See `Controls.cancel`."""
        return self.controls.cancel(job_id, reason, actor=actor)

    def replay(self, job_id: str, edits: Json | None = None, *, actor: Actor | None = None) -> Job:
        """See `Controls.replay`."""
        return self.controls.replay(job_id, edits, actor=actor)

    @cached_property
    def store(self) -> Store:
        """The job store, its tables brought to this version."""
        from pynomaly_tasks.store.store import Store

        store = Store(self.settings.store_url(), self.settings.store.pool_size)
        store.migrate()
        return store

    @cached_property
    def queue(self) -> CeleryQueue:
        """The broker."""
        from pynomaly_tasks.queueing.queue import CeleryQueue

        celery = app if self.settings is _settings() else build_app(lambda: self.settings)
        return CeleryQueue(celery, self.settings.redis, lease_s=self.settings.jobs.lease_s)

    @cached_property
    def bell(self) -> OutboxBell:
        """Wakes the relay that publishes events."""
        from pynomaly_tasks.realtime.bell import OutboxBell

        return OutboxBell(self.settings.redis.streams())

    @cached_property
    def announcer(self) -> Announcer:
        """Tells of a job's change: who watches, and the relay of its events."""
        from pynomaly_tasks.jobs.announce import Announcer

        return Announcer(self.updates, self.bell)

    @cached_property
    def updates(self) -> StreamPublisher:
        """The live stream."""
        from pynomaly_tasks.realtime.publisher import StreamPublisher

        live = self.settings.live
        return StreamPublisher(
            self.settings.redis.streams(), live.stream_length, progress_per_s=live.progress_per_s
        )

    @cached_property
    def topics(self) -> Mapping[str, Topic]:
        """The topics of events by name, as their file describes them."""
        from pynomaly_tasks.events.topics import read_topics

        return read_topics(self.settings.kafka.topics_file)

    @cached_property
    def event_log(self) -> EventLog:
        """Where events go, as the setting ``events.backend`` says."""
        from pynomaly_tasks.events.topics import DEAD_LETTER_EVENTS

        described = self.topics
        topics = {name: topic.n_partitions for name, topic in described.items()}
        if self.settings.events.backend == "kafka":
            return _kafka_log(self.settings.kafka, topics)
        from pynomaly_tasks.events.redis_streams.log import RedisEventLog

        events = self.settings.events
        return RedisEventLog(
            url=self.settings.redis.streams(),
            topics=topics,
            keep_s=events.keep_days * 86_400,
            # Beside the event itself its headers, and those of a dead letter.
            max_record_bytes=events.max_event_kb * 1_024 + 65_536,
            # For a person, who looks when there is time.
            keep_longer_s={DEAD_LETTER_EVENTS: described[DEAD_LETTER_EVENTS].retention_s},
            timeout_s=min(self.settings.redis.socket_timeout_s, _LONGEST_REDIS_WAIT_S),
        )

    @cached_property
    def publisher(self) -> EventPublisher:
        """Publishes the application's own events; see `pynomaly_tasks.publishing`."""
        from pynomaly_tasks.events.cloudevents import encode
        from pynomaly_tasks.events.publish import EventPublisher

        events = self.settings.events
        return EventPublisher(
            self.event_producer,
            self.store.event_transactions,
            partial(encode, source=events.source, max_bytes=events.max_event_kb * 1_024),
            self.bell.ring,
        )

    @cached_property
    def relay(self) -> Relay:
        """Publishes the outbox; needs an event loop to run in."""
        from pynomaly_tasks.events.cloudevents import encode
        from pynomaly_tasks.events.relay import Relay
        from pynomaly_tasks.events.relay_metrics import RelayMetrics
        from pynomaly_tasks.events.relay_ports import RelayOptions
        from pynomaly_tasks.events.wake import WakeListener

        events, outbox = self.settings.events, self.settings.outbox
        return Relay(
            self.store,
            self.event_producer(),
            partial(encode, source=events.source, max_bytes=events.max_event_kb * 1_024),
            WakeListener(self.settings.redis.streams()),
            RelayOptions(
                batch_size=outbox.batch_size,
                poll_s=outbox.poll_s,
                lease_s=outbox.lease_s,
                backoff_max_s=outbox.backoff_max_s,
                keep_sent_s=outbox.keep_sent_hours * 3_600,
                producer_timeout_s=self.settings.kafka.timeout_s,
            ),
            RelayMetrics(),
        )

    def event_producer(self) -> Producer:
        """A producer of the event log, not started."""
        return self.event_log.producer()

    def event_consumer(self, group: str, topics: Collection[str]) -> Consumer:
        """A member of a consumer group, not started. Raises NotFound for an unknown topic."""
        return self.event_log.consumer(group, topics)

    def event_reader(self) -> Reader:
        """A reader of the event log beside the groups."""
        return self.event_log.reader()

    @cached_property
    def artifacts(self) -> ArtifactStore:
        """The files that jobs left."""
        from pynomaly_tasks.store.artifacts import ArtifactStore

        return ArtifactStore(self.settings.artifacts_url())

    @cached_property
    def datasets(self) -> DatasetOpener:
        """The data that jobs may read."""
        from pynomaly_tasks.datasets.opener import DatasetOpener

        data = self.settings.data
        uploads = self.settings.uploads_directory()
        uploads.mkdir(parents=True, exist_ok=True)
        return DatasetOpener(
            roots=(uploads, *data.roots),
            max_columns=data.max_columns,
            max_rows=data.max_rows,
            memory_limit_mb=data.memory_limit_mb,
            temp_directory=data.directory.absolute() / "spill",
        )

    @cached_property
    def submitter(self) -> Submitter:
        """Accepts jobs."""
        from pynomaly_tasks.jobs.submit import Submitter

        return Submitter(
            self.store,
            self.queue,
            self.announcer,
            self.kinds,
            self.datasets,
            max_request_bytes=self.settings.jobs.max_request_kb * 1_024,
            max_time_limit_s=self.settings.jobs.max_time_limit_s,
        )

    @cached_property
    def controls(self) -> Controls:
        """Cancels and replays jobs."""
        from pynomaly_tasks.jobs.controls import Controls

        return Controls(self.store, self.submitter, self.announcer)

    @cached_property
    def rescuer(self) -> Rescuer:
        """Keeps the promises when processes die."""
        from pynomaly_tasks.jobs.rescue import Rescuer

        return Rescuer(
            self.store,
            self.queue,
            self.submitter,
            self.announcer,
            max_lost_attempts=self.settings.jobs.max_lost_attempts,
            lost_message_after_s=self.settings.jobs.lost_message_after_s,
            lease_s=self.settings.jobs.lease_s,
        )

    @cached_property
    def services(self) -> Services:
        """What the kinds of jobs need from the outside world."""
        from pynomaly_tasks.kinds.services import Services
        from pynomaly_tasks.senders.registry import build_channels
        from pynomaly_tasks.senders.webhook import build_webhooks

        notifications, webhooks = self.settings.notifications, self.settings.webhooks
        return Services(
            datasets=self.datasets,
            results=self.store,
            artifacts=self.artifacts,
            channels=build_channels(notifications.channels, notifications.timeout_s),
            deliveries=self.store.deliveries,
            webhooks=build_webhooks(webhooks.endpoints, webhooks.timeout_s),
        )

    @cached_property
    def runner(self) -> Runner:
        """Runs jobs in this process."""
        from pynomaly_tasks.jobs.run import Runner

        jobs = self.settings.jobs
        return Runner(
            self.store,
            self.submitter,
            self.announcer,
            self.artifacts,
            self.kinds,
            self.services,
            lease_s=jobs.lease_s,
            write_every_s=jobs.progress_every_s,
            time_limit_s=jobs.time_limit_s,
            scratch_root=self.settings.data.directory.absolute() / "scratch",
        )

    def close(self) -> None:
        """Publish what waits for that, and close this process's connections."""
        if "publisher" in self.__dict__:
            self.publisher.close()
        if "store" in self.__dict__:
            self.store.close()


def build_messaging(settings: Settings) -> QueueManager:
    """The message queues, on the broker that the settings name; open it with ``async with``."""
    from pynomaly_tasks.messaging import CodecLimits, QueueOptions, build_manager

    chosen = settings.messaging
    above_kb = chosen.compress_above_kb
    return build_manager(
        chosen.backend,
        settings.messaging_url(),
        custom=(chosen.custom_module or "", chosen.custom_class or ""),
        namespace=chosen.namespace,
        connect_timeout_s=chosen.connect_timeout_s,
        timeout_s=chosen.timeout_s,
        limits=CodecLimits(
            max_bytes=chosen.max_payload_kb * 1024,
            max_depth=chosen.max_depth,
            compress_above_bytes=None if above_kb is None else above_kb * 1024,
        ),
        keys=[key.get_secret_value() for key in chosen.encryption_keys],
        max_fan_out=chosen.max_fan_out,
        default_options=QueueOptions(dead_letters=chosen.dead_letters, max_size=chosen.max_size),
    )


def kafka_connection(kafka: KafkaSettings) -> KafkaConnection:
    """How to reach Kafka, after the settings."""
    from pynomaly_tasks.events.kafka.connection import KafkaConnection

    password = kafka.sasl_password
    return KafkaConnection(
        bootstrap_servers=kafka.bootstrap_servers,
        security_protocol=kafka.security_protocol,
        sasl_mechanism=kafka.sasl_mechanism,
        sasl_username=kafka.sasl_username,
        sasl_password=None if password is None else password.get_secret_value(),
        ssl_ca_file=kafka.ssl_ca_file,
    )


def _kafka_log(kafka: KafkaSettings, topics: Mapping[str, int]) -> EventLog:
    from pynomaly_tasks.events.kafka.log import KafkaEventLog

    return KafkaEventLog(
        connection=kafka_connection(kafka),
        topics=topics,
        compression=kafka.compression,
        timeout_s=kafka.timeout_s,
    )


def build_platform(settings: Settings) -> Platform:
    """A platform with these settings; it connects when it is used."""
    return Platform(settings)


@lru_cache(maxsize=1)
def _platform_of(pid: int) -> Platform:
    # By process id: a forked child builds its own, and shares nothing that holds a connection.
    return build_platform(_settings())


def current_platform() -> Platform:
    """This process's platform, from the environment's settings."""
    return _platform_of(os.getpid())

"""The one place that names concrete parts and joins them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pynomaly_tasks.core.job import Job, Json
from pynomaly_tasks.jobs.context import Kind
from pynomaly_tasks.jobs.submission import Submission
from pynomaly_tasks.kinds import KINDS
from pynomaly_tasks.queueing.app import build_app

if TYPE_CHECKING:
    from pynomaly_tasks.datasets.opener import DatasetOpener
    from pynomaly_tasks.jobs.controls import Controls
    from pynomaly_tasks.jobs.rescue import Rescuer
    from pynomaly_tasks.jobs.run import Runner
    from pynomaly_tasks.jobs.submit import Submitter
    from pynomaly_tasks.messaging import QueueManager
    from pynomaly_tasks.queueing.queue import CeleryQueue
    from pynomaly_tasks.realtime.publisher import StreamPublisher
    from pynomaly_tasks.settings import Settings
    from pynomaly_tasks.store.artifacts import ArtifactStore
    from pynomaly_tasks.store.store import Store


def _settings() -> Settings:
    from pynomaly_tasks.settings import current_settings

    return current_settings()


#: The Celery app. Importing it connects to nothing.
app = build_app(_settings, set_as_current=True)


_kinds: dict[str, Kind] = dict(KINDS)


def add_kind(kind: Kind) -> None:
    """Teach this process one more kind of job, which is then submitted and run like ours.

    Call it where the kind is defined, and import that in every process that submits or runs it.
    """
    _kinds[kind.name] = kind


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

    def cancel(self, job_id: str, reason: str = "") -> Job:
        """See `Controls.cancel`."""
        return self.controls.cancel(job_id, reason)

    def replay(self, job_id: str, edits: Json | None = None) -> Job:
        """See `Controls.replay`."""
        return self.controls.replay(job_id, edits)

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
    def updates(self) -> StreamPublisher:
        """The live stream."""
        from pynomaly_tasks.realtime.publisher import StreamPublisher

        return StreamPublisher(self.settings.redis.streams())

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
            self.updates,
            self.kinds,
            self.datasets,
            max_request_bytes=self.settings.jobs.max_request_kb * 1_024,
            max_time_limit_s=self.settings.jobs.max_time_limit_s,
        )

    @cached_property
    def controls(self) -> Controls:
        """Cancels and replays jobs."""
        from pynomaly_tasks.jobs.controls import Controls

        return Controls(self.store, self.submitter, self.updates)

    @cached_property
    def rescuer(self) -> Rescuer:
        """Keeps the promises when processes die."""
        from pynomaly_tasks.jobs.rescue import Rescuer

        return Rescuer(
            self.store,
            self.queue,
            self.submitter,
            self.updates,
            max_lost_attempts=self.settings.jobs.max_lost_attempts,
            lost_message_after_s=self.settings.jobs.lost_message_after_s,
            lease_s=self.settings.jobs.lease_s,
        )

    @cached_property
    def runner(self) -> Runner:
        """Runs jobs in this process."""
        from pynomaly_tasks.jobs.run import Runner
        from pynomaly_tasks.kinds.services import Services
        from pynomaly_tasks.senders.registry import build_channels

        jobs = self.settings.jobs
        notifications = self.settings.notifications
        return Runner(
            self.store,
            self.submitter,
            self.updates,
            self.artifacts,
            self.kinds,
            Services(
                datasets=self.datasets,
                results=self.store,
                artifacts=self.artifacts,
                channels=build_channels(notifications.channels, notifications.timeout_s),
                deliveries=self.store.deliveries,
            ),
            lease_s=jobs.lease_s,
            write_every_s=jobs.progress_every_s,
            time_limit_s=jobs.time_limit_s,
            scratch_root=self.settings.data.directory.absolute() / "scratch",
        )

    def close(self) -> None:
        """Close this process's connections."""
        if "store" in self.__dict__:
            self.store.close()


def build_messaging(settings: Settings) -> QueueManager:
    """The message queues, on the broker that the settings name; open it with ``async with``."""
    from pynomaly_tasks.messaging import (
        Codec,
        CodecLimits,
        QueueManager,
        build_backend,
        build_custom_backend,
    )

    chosen = settings.messaging
    if chosen.backend == "custom":
        assert chosen.custom_module is not None  # the settings' own rule
        assert chosen.custom_class is not None
        backend = build_custom_backend(chosen.custom_module, chosen.custom_class, settings.messaging_url())
    elif chosen.backend == "memory":
        backend = build_backend("memory")
    else:
        backend = build_backend(
            chosen.backend,
            settings.messaging_url(),
            namespace=chosen.namespace,
            connect_timeout_s=chosen.connect_timeout_s,
            timeout_s=chosen.timeout_s,
        )
    above_kb = chosen.compress_above_kb
    limits = CodecLimits(
        max_bytes=chosen.max_payload_kb * 1024,
        max_depth=chosen.max_depth,
        compress_above_bytes=None if above_kb is None else above_kb * 1024,
    )
    keys = [key.get_secret_value() for key in chosen.encryption_keys]
    return QueueManager(backend, codec=Codec(limits=limits, keys=keys), max_fan_out=chosen.max_fan_out)


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

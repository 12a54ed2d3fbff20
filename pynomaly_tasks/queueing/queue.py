"""The broker as the job engine sees it: ring for a job, see which rings are still waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import orjson
import redis
from celery import Celery
from celery.app.task import Context
from celery.exceptions import BackendError
from kombu.exceptions import BatchPublishError, OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.queueing.app import (
    KILL_AFTER_LIMIT_S,
    PRIORITY_STEPS,
    SIGNAL_AFTER_LIMIT_S,
    TASK_PREFIX,
    redis_priority,
)
from pynomaly_tasks.queueing.callbacks import give_ids
from pynomaly_tasks.queueing.failure import failure_of
from pynomaly_tasks.settings.engine import RedisSettings
from pynomaly_tasks.transport.held import held_task_ids
from pynomaly_tasks.transport.letters import Letter, Letters

#: The control command that a worker with a cancelled job gets.
HURRY = "look_for_cancels"
_SEPARATOR = "\x06\x16"  # kombu's, between a queue's name and its priority
_SHOWN_CHARACTERS = 1_024
_IDS_PER_READ = 1_000
_LETTERS_PER_PASS = 500
#: Held by the process that moves dead letters into the store; expires, should it die.
_COLLECTING_KEY = "pynomaly_collecting_dead_letters"
_COLLECTING_S = 60
_STALE_CONNECTION_S = 1.0  #: a failure that takes longer is a broker that does not answer


class CeleryQueue:
    """Publishes jobs as Celery messages that carry the job's id as the task's."""

    def __init__(self, app: Celery, settings: RedisSettings, *, lease_s: float) -> None:
        """``lease_s``: after which the broker gives back what a silent worker holds."""
        self._app = app
        self._settings = settings
        self._lease_s = lease_s
        self._local = threading.local()

    def publish(self, jobs: Sequence[Job]) -> None:
        """Ring for each job; several go in one pipeline. Raises BrokerUnavailable, within a timeout."""
        started_s = time.monotonic()
        try:
            self._publish(jobs)
        except BrokerUnavailable:
            if time.monotonic() - started_s > _STALE_CONNECTION_S:
                raise
            # A pooled connection that Redis closed shows at its first use. The transport has asked again
            # where an answer was lost; what it could not tell is rung twice, which is harmless.
            self._publish(jobs)

    def _publish(self, jobs: Sequence[Job]) -> None:
        with mapped_errors(), self._app.producer_or_acquire() as producer:
            if len(jobs) == 1:
                self._send(producer, jobs[0])
                return
            with producer.batch():
                for job in jobs:
                    self._send(producer, job)

    def _send(self, producer: Any, job: Job) -> None:
        envelope = job.envelope
        limit_s = job.time_limit_s
        message = self._app.amqp.create_task_message(
            job.id,
            TASK_PREFIX + job.kind,
            args=(),
            kwargs=job.request,
            group_id=envelope.get("group_id"),
            group_index=envelope.get("group_index"),
            chord=envelope.get("chord"),
            chain=envelope.get("chain"),
            callbacks=envelope.get("link"),
            errbacks=envelope.get("link_error"),
            reply_to=envelope.get("reply_to"),
            shadow=envelope.get("shadow"),
            ignore_result=envelope.get("ignore_result", False),
            replaced_task_nesting=envelope.get("replaced_task_nesting", 0),
            stamped_headers=envelope.get("stamped_headers"),
            **envelope.get("stamps", {}),
            retries=job.n_failed,
            root_id=job.root_id,
            parent_id=job.parent_id,
            time_limit=None if limit_s is None else limit_s + KILL_AFTER_LIMIT_S,
            soft_time_limit=None if limit_s is None else limit_s + SIGNAL_AFTER_LIMIT_S,
            origin=envelope.get("origin"),
            argsrepr=envelope.get("argsrepr", "()"),
            kwargsrepr=envelope.get("kwargsrepr") or _shown(job),
        )
        self._app.amqp.send_task_message(
            producer,
            TASK_PREFIX + job.kind,
            message,
            queue=job.queue,
            priority=redis_priority(job.priority),
            headers=envelope.get("headers"),
        )

    def hurry(self, worker: str) -> None:
        """Have a worker look at once whether its jobs were cancelled; a worker that is gone hears nothing."""
        # As `Celery.control.broadcast`, which would try for ever while the broker is down.
        exchange = self._app.control.mailbox.exchange
        command = {"method": HURRY, "arguments": {}, "destination": [worker.rpartition("#")[0]]}
        with mapped_errors(), self._app.producer_or_acquire() as producer:
            producer.publish(
                command,
                exchange=exchange.name,
                declare=[exchange],
                headers={"clock": self._app.clock.forward(), "expires": 0},
                serializer="json",
                retry=False,
            )

    def report_end(self, job: Job) -> None:
        """Write the end of a job that no delivery will report into Celery's results, and fire its errbacks."""
        envelope = job.envelope
        request = Context(
            id=job.id,
            task=TASK_PREFIX + job.kind,
            group=envelope.get("group_id"),
            group_index=envelope.get("group_index"),
            chord=envelope.get("chord"),
            chain=envelope.get("chain"),
            callbacks=envelope.get("link"),
            errbacks=envelope.get("link_error"),
            root_id=job.root_id or job.id,
            parent_id=job.parent_id,
        )
        give_ids(request)
        store_result = not envelope.get("ignore_result", False)
        with mapped_errors(), self._app.backend.impatient():
            if job.state is JobState.CANCELLED:
                self._app.backend.mark_as_revoked(
                    job.id, "cancelled", request=request, store_result=store_result
                )
            else:
                self._app.backend.mark_as_failure(
                    job.id, failure_of(job), request=request, store_result=store_result
                )

    def n_ready(self, queue: str) -> int:
        """Messages waiting in the queue, over all priorities."""
        with mapped_errors(), self._client().pipeline(transaction=False) as pipeline:
            for key in _keys(queue):
                pipeline.llen(key)
            return sum(pipeline.execute())

    def check_results(self) -> None:
        """Raise BrokerUnavailable unless the Redis that keeps Celery's results answers."""
        with mapped_errors(), self._app.backend.impatient():
            self._app.backend.client.ping()

    def ready_ids(self, queue: str) -> set[str]:
        """Ids of the jobs whose message waits in the queue, or with a worker that took it in advance.

        Reads the whole queue. What a worker took that was not heard of for half a lease is left out:
        it comes back, but later.
        """
        ids: set[str] = set()
        with mapped_errors():
            client = self._client()
            # The workers' messages twice: one that moves either way meanwhile is seen.
            ids.update(held_task_ids(client, heard_of_within_s=self._lease_s / 2))
            for key in _keys(queue):
                ids.update(filter(None, map(_job_id, _messages(client, key))))
            ids.update(held_task_ids(client, heard_of_within_s=self._lease_s / 2))
        return ids

    def take_dead_letters(self, queues: Iterable[str]) -> Iterator[Letter]:
        """What the transport kept of these queues, each letter for one caller; `forget_dead_letter` settles it.

        Raises BrokerUnavailable.
        """
        names = sorted(set(queues))
        with mapped_errors():
            letters = Letters(self._client())
            if not letters.count(*names):
                return
            if not self._client().set(_COLLECTING_KEY, 1, nx=True, ex=_COLLECTING_S):
                return  # somebody else is at it
            found = [letter for name in names for letter in islice(letters.list(name), _LETTERS_PER_PASS)]
        try:
            yield from sorted(found, key=lambda letter: letter.at or datetime.min.replace(tzinfo=UTC))
        finally:
            with suppress(redis.RedisError):  # it expires
                self._client().delete(_COLLECTING_KEY)

    def send_again(self, queue: str, raw: bytes) -> None:
        """Put a message that was kept into its queue, as it came. Raises BrokerUnavailable."""
        with mapped_errors():
            self._client().lpush(queue, raw)

    def forget_dead_letter(self, letter: Letter) -> None:
        """The letter is kept elsewhere. Raises BrokerUnavailable."""
        with mapped_errors():
            Letters(self._client()).discard(letter)

    def _client(self) -> redis.Redis:
        client: redis.Redis | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = redis.Redis.from_url(
                self._settings.broker(),
                socket_timeout=self._settings.socket_timeout_s,
                socket_connect_timeout=self._settings.connect_timeout_s,
                # By default redis-py repeats a command ten times; whoever asks here asks again.
                retry=Retry(NoBackoff(), 1),
            )
        return client


def _shown(job: Job) -> str:
    """The request as events and Flower show it."""
    return orjson.dumps(job.request).decode()[:_SHOWN_CHARACTERS]


def _keys(queue: str) -> list[str]:
    return [queue if step == 0 else f"{queue}{_SEPARATOR}{step}" for step in PRIORITY_STEPS]


def _messages(client: Any, key: str) -> Iterator[bytes]:
    start = 0
    while messages := client.lrange(key, start, start + _IDS_PER_READ - 1):
        yield from messages
        start += _IDS_PER_READ


def _job_id(message: bytes | str) -> str | None:
    """None for a message that is not Celery's; the worker deals with it."""
    try:
        job_id = orjson.loads(message)["headers"]["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return job_id if isinstance(job_id, str) else None


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Turn kombu's, redis' and the socket's errors into BrokerUnavailable."""
    try:
        yield
    except (OperationalError, BatchPublishError, BackendError, redis.RedisError, OSError) as error:
        raise BrokerUnavailable(f"the broker gave no answer: {error}") from error

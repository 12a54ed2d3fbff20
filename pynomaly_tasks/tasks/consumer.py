"""The worker's consumer: it survives a broker that goes away, and keeps what it cannot read."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import COLLECT_SOCKET_TIMEOUT, bound_open_broker_sockets

from pynomaly_tasks.bootstrap import current_platform
from pynomaly_tasks.core.job import DeadReason
from pynomaly_tasks.errors import Conflict, JobAlreadyFinal, NotFound, StoreUnavailable
from pynomaly_tasks.queueing.guard import UNREADABLE, WHY
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)


class JobConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer with a few differences, each named at its method."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Without Celery's mingle: it waits a second at every start for other workers to tell which
        # tasks were revoked, and here the store remembers that.
        super().__init__(*args, **{**kwargs, "without_mingle": True})

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Reconnect without closing the connection object.

        Celery 5.7.0 closes it and sets it to None here. Parts of the worker that still use it then
        fail with "'NoneType' object has no attribute ...": Gossip, and, when a task over
        Redis is acknowledged in that moment, the main process, which exits with 1.
        """
        log.warning("broker_connection_lost", error=repr(exc))
        bound_open_broker_sockets(self.connection, COLLECT_SOCKET_TIMEOUT)
        try:
            self.connection.collect(socket_timeout=COLLECT_SOCKET_TIMEOUT)
        except Exception as error:  # whatever a broken connection raises: a new one follows
            log.debug("broker_connection_not_collected", error=repr(error))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """A message that is not a task: into the dead letters, with its bytes."""
        self._keep(message, DeadReason.UNREADABLE, "this is not a task message")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task that no worker here has: into the dead letters."""
        why = f"no worker here has the task {exc}"
        if not _bury(message, why):
            self._keep(message, DeadReason.UNKNOWN_TASK, why)
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task message that breaks Celery's protocol: into the dead letters."""
        self._keep(message, DeadReason.UNREADABLE, str(exc))
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A body that cannot be decoded: into the dead letters."""
        self._keep(message, DeadReason.UNREADABLE, str(exc))
        super().on_decode_error(message, exc)

    def _keep(self, message: Any, reason: DeadReason, why: str) -> None:
        body = message.body
        headers = message.headers if isinstance(message.headers, dict) else {}
        task = headers.get("task")
        if message.content_type == UNREADABLE:
            why = headers.get(WHY, why)
        try:
            current_platform().store.add_unreadable(
                str((message.delivery_info or {}).get("routing_key") or "unknown")[:100],
                str(task)[:255] if task else None,
                body if isinstance(body, bytes) else str(body).encode(errors="surrogateescape"),
                reason,
                why,
            )
        except StoreUnavailable as error:
            # Without the store nothing can be kept: the log is the last place for it.
            log.error(
                "dead_letter_not_stored",
                reason=reason.value,
                why=why,
                body=repr(body)[:2_000],
                error=str(error),
            )


def _bury(message: Any, why: str) -> bool:
    """Put the stored job of this message, if there is one, into the dead letters.

    Left as it is, the job would be rung for again and again, each time in vain.
    """
    platform = current_platform()
    try:
        platform.runner.report(platform.store.bury(message.headers["id"], DeadReason.UNKNOWN_TASK, why))
    except JobAlreadyFinal:
        return True
    except (NotFound, Conflict, StoreUnavailable):
        return False
    return True

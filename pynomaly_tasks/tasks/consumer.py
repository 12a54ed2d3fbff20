"""The worker's consumer: it survives a broker that goes away."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer.consumer import COLLECT_SOCKET_TIMEOUT, bound_open_broker_sockets

from pynomaly_tasks.telemetry import get_logger
from pynomaly_tasks.transport.consumer import Consumer

log = get_logger(__name__)


class JobConsumer(Consumer):
    """The transport's consumer with a few differences, each named at its method."""

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

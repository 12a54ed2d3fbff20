"""A Celery consumer that notices soon that its broker is back.

Use it by name: ``worker_consumer = "pynomaly_tasks.transport.consumer:Consumer"``, with
``broker_connection_max_retries = None``, because the tries are more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker import consumer

#: Between two tries to connect. Celery waits 2 s longer each time, up to 30 s, so that a worker may stand
#: idle for half a minute after its broker is back.
RETRY_EVERY_S = 1.0


class Consumer(consumer.Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's, trying to connect every second."""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes."""
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_start=RETRY_EVERY_S, interval_step=0, interval_max=RETRY_EVERY_S
        )
        return super().ensure_connected(conn)

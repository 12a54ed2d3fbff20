"""A Celery consumer that notices soon that its broker is back or a child is gone, and lets tasks begin at once.

Use it by name: ``worker_consumer = "pynomaly_tasks.transport.consumer:Consumer"``, with
``broker_connection_max_retries = None``, because the tries are more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.concurrency import solo
from celery.worker import consumer

from pynomaly_tasks.transport.channel import Reserving
from pynomaly_tasks.transport.hand_over import begin_at_once, decode_once

#: Between two tries to connect. Celery waits 2 s longer each time, up to 30 s, so that a worker may stand
#: idle for half a minute after its broker is back.
RETRY_EVERY_S = 1.0
#: Celery learns that a child has ended when it closes its descriptors, an instant before it can be reaped. Where
#: it misses that, it looks again after 5 s, and a task that was given to this child waits for as long.
REAP_EVERY_S = 0.2


class Consumer(consumer.Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's, trying to connect every second, and giving tasks to the pool without delay."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reaping: Any = None
        self.on_task_request = decode_once(begin_at_once(self, self._is_alone))

    def _is_alone(self) -> bool:
        channel = self.task_consumer.channel
        return isinstance(channel, Reserving) and channel.is_delivering_one

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """What is called with each message; for each connection anew."""
        channel = self.task_consumer.channel
        if isinstance(channel, Reserving):
            # The solo pool runs a task where it is delivered, and an answer that is not read is not renewed.
            channel.asks_ahead = not isinstance(self.pool, solo.TaskPool)
        return super().create_task_handler(*args, **options)

    def register_with_event_loop(self, hub: Any) -> None:
        """Also look for children that have ended."""
        super().register_with_event_loop(hub)
        if self._reaping is not None:
            self._reaping.cancel()  # of the loop before: each new connection has a loop of its own
        self._reaping = hub.call_repeatedly(REAP_EVERY_S, self.pool.maintain_pool)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes."""
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_start=RETRY_EVERY_S, interval_step=0, interval_max=RETRY_EVERY_S
        )
        return super().ensure_connected(conn)

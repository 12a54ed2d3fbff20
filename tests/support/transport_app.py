"""A Celery app of the tests' own, on kombu's transport or ours: each task writes where it starts and ends."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery

from support.transport_log import LOG

app = Celery("transport", broker=os.environ["TRANSPORT_BROKER"], backend=os.environ.get("TRANSPORT_RESULTS"))
app.conf.update(
    broker_transport=os.environ.get("TRANSPORT") or None,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result="TRANSPORT_RESULTS" not in os.environ,
    worker_prefetch_multiplier=int(os.environ.get("TRANSPORT_PREFETCH", "4")),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_enable_remote_control=True,
    worker_consumer=os.environ.get("TRANSPORT_CONSUMER", "celery.worker.consumer:Consumer"),
    broker_transport_options={
        "lease_s": float(os.environ.get("TRANSPORT_LEASE_S", "20")),
        "visibility_timeout": float(os.environ.get("TRANSPORT_VISIBILITY_S", "3600")),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "max_message_bytes": 1_000_000,
        "max_body_bytes": 2_000_000,
        **json.loads(os.environ.get("TRANSPORT_OPTIONS", "{}")),
    },
    **json.loads(os.environ.get("TRANSPORT_CONF", "{}")),
)

if key := os.environ.get("TRANSPORT_DIES"):
    # The first worker dies at the moment at which kombu's transport has popped a message from its queue
    # and not yet written it down, and ours has the answer of its step in hand.
    from kombu.transport.redis import QoS

    from pynomaly_tasks.transport.channel import Reserving

    def _die(step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **options: Any) -> Any:
            if args[-1] and effects().delete(key):
                os.killpg(os.getpgid(0), signal.SIGKILL)
            return step(*args, **options)

        return stepped

    QoS.append = _die(QoS.append)
    Reserving._take = _die(Reserving._take)  # type: ignore[method-assign]  # only here

_effects: redis.Redis | None = None


def effects() -> redis.Redis:
    """The client of the tasks, one a process."""
    global _effects
    if _effects is None:
        _effects = redis.Redis.from_url(os.environ["TRANSPORT_EFFECTS"], socket_timeout=None)
    return _effects


@app.task(name="work", bind=True)
def work(self: Any, number: int, lasts_s: float = 0.0, gate: str | None = None) -> int:
    """Write down a start and an end of ``number``; wait for ``gate`` where one is named."""
    client = effects()
    run = {
        "number": number, "run": uuid.uuid4().hex, "group": os.getpgid(0), "pid": os.getpid(), "clock": time.time()
    }  # fmt: skip
    with client.pipeline() as step:
        step.xadd(LOG, {**run, "what": "start"})
        step.hincrby("starts", str(number), 1)
        step.rpush("order", number)
        if self.request.delivery_info["redelivered"]:
            step.hincrby("redelivered", str(number), 1)
        step.execute()
    if gate is not None:
        client.blpop([gate], timeout=60)
    time.sleep(lasts_s)
    with client.pipeline() as step:
        step.xadd(LOG, {**run, "what": "end"})
        step.hincrby("ends", str(number), 1)
        step.execute()
    return number

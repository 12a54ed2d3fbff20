"""Celery, on kombu's transport or ours, with the pool and the settings that the environment names."""

import json
import os
import sys

from celery import Celery
from probe import ARGUMENT, REDIS_URL, ran

OURS = os.environ.get("BENCH_OURS")
app = Celery(
    "celery_peer",
    broker=f"{REDIS_URL}/1",
    amqp="pynomaly_tasks.transport.amqp:AMQP" if OURS == "with amqp" else None,
    task_cls="pynomaly_tasks.transport.task:Task" if OURS == "with amqp" else None,
)
if OURS:
    app.conf.broker_transport = "pynomaly_tasks.transport:Transport"
if OURS == "with amqp":
    app.conf.worker_consumer = "pynomaly_tasks.transport.consumer:Consumer"
pool, slots, count = json.loads(os.environ["BENCH_POOL"])
arguments = []
if os.environ.get("BENCH_TUNED"):
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=64 // slots,
        broker_pool_limit=10,
    )
    arguments = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-O", "fair"]


@app.task(name="noop")
def noop(argument: object) -> None:
    ran()


def submit() -> None:
    noop.delay(ARGUMENT)


def submit_many(n_tasks: int) -> None:
    with app.producer_or_acquire() as producer, producer.batch(500):
        for _ in range(n_tasks):
            noop.apply_async((ARGUMENT,), producer=producer)


if OURS == "with amqp":

    def submit_more(n_tasks: int) -> None:
        from pynomaly_tasks.transport.bulk import send_many

        send_many(noop, (((ARGUMENT,), {}) for _ in range(n_tasks)))


WORKERS = [
    [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "-P", pool, "-c", str(slots),
     "-n", f"{n}@bench", *arguments]
    for n in range(count)
]  # fmt: skip

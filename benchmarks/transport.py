"""What does a task cost on our transport beside kombu's own, and beside bare Redis?

    python benchmarks/transport.py [--tasks 3000] [--rounds 3]

One run, the contestants in turn in each round, medians and the spread over the rounds. End to end: no-op tasks
with acks_late and results ignored, laid out in a list beforehand and renamed into the queue when the workers are
ready; the clock stops when the queue is empty and nothing is unacknowledged. CPU is that of all worker processes.
Every worker may hold 64 messages. "bare" is a redis-py loop that takes one message at a time in one Lua step and
acknowledges it, with nothing around it: the limit of anything that does this one by one. Start latency is taken on
an idle worker, one `.delay()` at a time. Rates move with what else the machine does: trust the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import redis
from celery import Celery

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from pynomaly_tasks.embedded.redis_server import RedisServer  # noqa: E402  # the path comes first
from pynomaly_tasks.transport import scripts  # noqa: E402

OURS = "pynomaly_tasks.transport:Transport"
POOLS = {
    "prefork, 2 children": ("prefork", 2, 1),
    "8 threads": ("threads", 8, 1),
    "2 solo workers": ("solo", 1, 2),
}
HELD = 64  #: messages a worker may hold
ARGUMENT = {"source": "data/readings.csv", "note": "x" * 800}


def make_app(url: str, transport: str) -> Celery:
    """The app of the workers and of the publishers."""
    celery = Celery("bench", broker=url, set_as_current=False)
    celery.conf.update(
        broker_transport=transport or None, task_acks_late=True, task_ignore_result=True,
        worker_prefetch_multiplier=HELD // int(os.environ.get("BENCH_SLOTS", "1")),
        broker_connection_retry_on_startup=True, worker_hijack_root_logger=False,
    )  # fmt: skip

    @celery.task(name="noop", shared=False)
    def noop(argument: object) -> None:
        pass

    @celery.task(name="note", shared=False)
    def note(argument: object) -> None:
        started_at = time.time()
        with redis.Redis.from_url(os.environ["BENCH_EFFECTS"]) as client:
            client.rpush("started", started_at)

    return celery


if "BENCH_BROKER" in os.environ:
    app = make_app(os.environ["BENCH_BROKER"], os.environ["BENCH_TRANSPORT"])


@contextmanager
def workers(
    server: RedisServer, transport: str, pool: str, slots: int, count: int
) -> Iterator[list[psutil.Process]]:
    """Workers that are ready."""
    env = {**os.environ, "BENCH_BROKER": f"{server.url}/1", "BENCH_EFFECTS": f"{server.url}/2",
           "BENCH_TRANSPORT": transport, "BENCH_SLOTS": str(slots), "PYTHONPATH": str(HERE.parents[1])}  # fmt: skip
    started = []
    for n in range(count):
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        command = [sys.executable, "-m", "celery", "-A", "transport", "worker", "-P", pool, "-c", str(slots),
                   "-n", f"{n}@bench", "--without-mingle", "--without-gossip", "-l", "INFO"]  # fmt: skip
        started.append((subprocess.Popen(command, env=env, cwd=HERE.parent, stdout=log, stderr=log), log))
    for process, log in started:
        while True:
            log.seek(0)
            if "ready." in log.read():
                break
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(log.read())
            time.sleep(0.05)
    try:
        yield [psutil.Process(process.pid) for process, _ in started]
    finally:
        for process, _ in started:
            process.terminate()
        for process, log in started:
            process.wait(30)
            log.close()


def cpu_s(processes: list[psutil.Process]) -> float:
    """CPU that the processes and their children used so far."""
    everyone = [p for process in processes for p in (process, *process.children(recursive=True))]
    return sum(sum(p.cpu_times()[:2]) for p in everyone)


def lay_out(server: RedisServer, n_tasks: int) -> None:
    """Messages in a list that nobody consumes."""
    celery = make_app(f"{server.url}/1", "")
    with celery.connection_for_write() as connection, connection.Producer() as producer:
        celery.tasks["noop"].apply_async((ARGUMENT,), producer=producer, queue="staged")
    with server.client(1) as client:
        [message] = client.lrange("staged", 0, 0)
        message = message.replace(b'"routing_key": "staged"', b'"routing_key": "celery"')
        client.delete("staged")
        # Plain kombu files what is unacknowledged under the delivery tag, so each needs its own.
        decoded = json.loads(message)
        for start in range(0, n_tasks, 500):
            batch = []
            for n in range(start, min(start + 500, n_tasks)):
                decoded["properties"]["delivery_tag"] = f"tag-{n}"
                decoded["headers"]["id"] = decoded["properties"]["correlation_id"] = f"task-{n}"
                batch.append(json.dumps(decoded))
            client.lpush("staged", *batch)


def end_to_end(
    server: RedisServer, transport: str, pool: str, slots: int, count: int, n_tasks: int
) -> tuple[float, float]:
    """Tasks a second, CPU us a task."""
    with workers(server, transport, pool, slots, count) as processes, server.client(1) as client:
        lay_out(server, n_tasks)
        time.sleep(0.5)  # let the workers settle into waiting
        cpu, began = cpu_s(processes), time.perf_counter()
        client.rename("staged", "celery")
        while client.llen("celery") or client.hlen("unacked"):
            time.sleep(0.005)
        took_s = time.perf_counter() - began
        cpu = cpu_s(processes) - cpu
    return n_tasks / took_s, 1e6 * cpu / n_tasks


def bare(server: RedisServer, n_tasks: int) -> tuple[float, float]:
    """The limit: one Lua step to take, one to acknowledge, one at a time."""
    lay_out(server, n_tasks)
    with server.client(1) as client:
        client.rename("staged", "celery")
        cpu, began = time.process_time(), time.perf_counter()
        keys = ["unacked", "unacked_index", "wake", "celery"]
        for n in range(n_tasks):
            scripts.RESERVE.run(client, keys, ["~bare:", n, 1, 1, 0, ',"","celery"]'])
            scripts.SETTLE.run(client, keys[:2], [f"~bare:{n:012d}:celery"])
        return n_tasks / (time.perf_counter() - began), 1e6 * (time.process_time() - cpu) / n_tasks


def enqueue(server: RedisServer, transport: str, n_tasks: int, *, in_batch: bool) -> tuple[float, float]:
    """Messages a second, CPU us a message, of one process."""
    celery = make_app(f"{server.url}/1", transport)
    task = celery.tasks["noop"]
    with celery.producer_or_acquire() as producer:
        task.apply_async((ARGUMENT,), producer=producer)
        cpu, began = time.process_time(), time.perf_counter()
        if in_batch:
            with producer.batch(100):
                for _ in range(n_tasks):
                    task.apply_async((ARGUMENT,), producer=producer)
        else:
            for _ in range(n_tasks):
                task.delay(ARGUMENT)
        took_s, cpu = time.perf_counter() - began, time.process_time() - cpu
    celery.close()
    with server.client(1) as client:
        client.delete("celery")
    return n_tasks / took_s, 1e6 * cpu / n_tasks


def latencies_ms(server: RedisServer, transport: str, pool: str, slots: int, count: int) -> list[float]:
    """From before `.delay()` to the start of the task, on idle workers."""
    with workers(server, transport, pool, slots, count), server.client(2) as effects:
        celery = make_app(f"{server.url}/1", transport)
        waits = []
        for _ in range(60):
            published_at = time.time()
            celery.tasks["note"].delay(0)
            _, started_at = effects.blpop(["started"], timeout=10)
            waits.append(1e3 * (float(started_at) - published_at))
            time.sleep(0.05)
        celery.close()
        return waits[10:]


def main() -> None:
    """Run all and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[tuple[float, float]]] = defaultdict(list)
    waits: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for pool, where in POOLS.items():
            for name, transport in (("kombu", ""), ("ours", OURS)):
                measured(
                    rates[f"run: {pool}, {name}"],
                    lambda s, t=transport, w=where: end_to_end(s, t, *w, options.tasks),
                )
        measured(rates["run: bare, one at a time"], lambda s: bare(s, options.tasks))
        for name, transport in (("kombu", ""), ("ours", OURS)):
            for in_batch in (False, True):
                how = "in a batch of 100" if in_batch else "one .delay() each"
                measured(rates[f"enqueue: {how}, {name}"],
                         lambda s, t=transport, b=in_batch: enqueue(s, t, options.tasks, in_batch=b))  # fmt: skip
            measured_waits = waits[f"start: 8 threads, {name}"]
            with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
                measured_waits += latencies_ms(server, transport, *POOLS["8 threads"])
    print(f"{options.tasks} tasks, {options.rounds} rounds, {os.cpu_count()} cores")
    print(f"{'':44}{'a second':>10}{'(spread)':>16}{'CPU us':>9}{'x kombu':>9}")
    for name, values in rates.items():
        rate, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        spread = f"{min(v[0] for v in values):.0f}-{max(v[0] for v in values):.0f}"
        peer = rates.get(name.replace(", ours", ", kombu"), values)
        ratio = rate / statistics.median(v[0] for v in peer)
        print(f"{name:44}{rate:10.0f}{spread:>16}{cpu:9.0f}{ratio:9.1f}")
    for name, values in waits.items():
        ordered = sorted(values)
        print(
            f"{name:44}p50 {ordered[len(ordered) // 2]:.1f} ms, p99 {ordered[int(len(ordered) * 0.99)]:.1f} ms"
        )


def measured(into: list[tuple[float, float]], measure: Callable[[RedisServer], tuple[float, float]]) -> None:
    """Each on a Redis of its own."""
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        into.append(measure(server))


if __name__ == "__main__":
    main()

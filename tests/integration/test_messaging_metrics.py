"""Prometheus sees what the queues and their workers do; the settings beside it are read and in force."""

from __future__ import annotations

import asyncio
import re
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest

from pynomaly_tasks.bootstrap import build_messaging
from pynomaly_tasks.cli import pynomaly
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import BrokerUnavailable, QueueFull
from pynomaly_tasks.messaging import Later, Message, QueueManager, QueueOptions, Reject, Worker, build_backend
from pynomaly_tasks.messaging.metrics import QueueMetrics, WorkerMetrics
from pynomaly_tasks.settings import Settings
from support.processes import ROOT, Programs
from support.waiting import wait_until

Load = Callable[..., Settings]


def told(text: str) -> dict[str, float]:
    """Samples by name with labels."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_every_count_of_a_queue_and_a_worker_is_told() -> None:
    registry = CollectorRegistry()
    queues, workers = QueueMetrics(registry), WorkerMetrics(registry)
    seen = []

    async def work(message: Message) -> None:
        seen.append(message.payload)
        if message.payload == "never":
            raise Reject("never")
        if message.payload == "again" and seen.count("again") == 1:
            raise Later(0.0)
        if message.payload == "once more" and seen.count("once more") == 1:
            raise ValueError("once")

    async def scenario() -> None:
        async with QueueManager(build_backend("memory")) as manager:
            await manager.create_queue("q")
            await manager.create_queue("untouched")
            for payload in ("done", "never", "again", "once more"):
                await manager.send("q", payload)
            await manager.send("q", "old", ttl_s=0.001)
            await asyncio.sleep(0.01)
            await manager.send("q", "later", delay_s=600.0)
            worker = Worker(manager, ["q"], observe=workers.observe)
            workers.watch(worker)
            worker.add_handler(work)
            while seen.count("once more") < 2:
                await worker.run_once()
            await manager.send("q", "held")
            (held,) = await manager.receive("q")
            await queues.refresh(manager)
            await held.ack()

    asyncio.run(scenario())
    found = told(generate_latest(registry).decode())

    def of(name: str) -> float:
        return found[f'pynomaly_messaging_{name}{{queue="q"}}']

    assert (of("sent_total"), of("acknowledged_total"), of("failed_total")) == (7, 3, 1)
    assert (of("expired_total"), of("requeued_total"), of("delivered_total")) == (1, 1, 7)
    assert (of("depth"), of("in_flight"), of("delayed"), of("dead_letters")) == (2, 1, 1, 2)
    assert of("handled_seconds_total") > 0
    assert (of("dropped_total"), of("purged_total")) == (0, 0)
    assert found['pynomaly_messaging_sent_total{queue="untouched"}'] == 0
    outcomes = {
        outcome: found[f'pynomaly_messaging_handler_seconds_count{{outcome="{outcome}",queue="q"}}']
        for outcome in ("done", "failed", "rejected", "later")
    }
    assert outcomes == {"done": 3, "failed": 1, "rejected": 1, "later": 1}
    assert found["pynomaly_messaging_worker_in_hand"] == 0
    assert found["pynomaly_messaging_worker_lost_total"] == 0


def test_last_known_counts_are_told_while_the_broker_is_away(own_redis: RedisServer) -> None:
    registry = CollectorRegistry()
    queues = QueueMetrics(registry)

    async def scenario() -> None:
        async with QueueManager(build_backend("redis_streams", f"{own_redis.url}/0")) as manager:
            await manager.create_queue("q")
            await manager.send("q", 1)
            asking = asyncio.create_task(queues.keep_fresh(manager, every_s=0.01))
            while not told(generate_latest(registry).decode()):
                await asyncio.sleep(0.01)
            own_redis.kill()
            with pytest.raises(BrokerUnavailable):
                await queues.refresh(manager)
            assert not asking.done()
            asking.cancel()

    asyncio.run(scenario())

    assert told(generate_latest(registry).decode())['pynomaly_messaging_depth{queue="q"}'] == 1


HANDLERS = """
async def work(message):
    print(f"handled {message.payload}", flush=True)

def register(worker):
    worker.add_handler(work)

async def export(context):
    print("exported", flush=True)

def register_tasks(tasks):
    tasks.add_handler("export", export)
"""


@pytest.mark.parametrize("process", ["worker", "tasks worker"])
def test_worker_process_serves_its_metrics_unless_the_setting_is_off(
    load_messaging: Load, redis_server: RedisServer, programs: Programs, tmp_path: Path, process: str
) -> None:
    (tmp_path / "metric_handlers.py").write_text(HANDLERS)
    env = {
        "PYNOMALY_MESSAGING__URL": f"{redis_server.url}/8",
        "PYNOMALY_MESSAGING__NAMESPACE": f"test:{uuid.uuid4().hex}",
        "PYNOMALY_MESSAGING__CONSUMER_GROUP": "mailer",
        "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data"),
        "PYNOMALY_METRICS__PORT": "0",
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
    }
    arguments = ["-m", "pynomaly_tasks.cli", "messaging", *process.split(), "--handlers"]
    arguments.append("metric_handlers:register" if process == "worker" else "metric_handlers:register_tasks")
    settings = load_messaging(
        URL=env["PYNOMALY_MESSAGING__URL"], NAMESPACE=env["PYNOMALY_MESSAGING__NAMESPACE"]
    )
    queue = "mailer" if process == "worker" else "tasks.export"

    async def fill() -> None:
        from pynomaly_tasks.messaging.tasks import Tasks

        async with build_messaging(settings) as manager:
            await manager.subscribe("mailer", "order.*")
            await manager.publish("order.paid", 1)
            await Tasks(manager).submit_task("export", even_without_handler=True)

    asyncio.run(fill())
    program = programs.python(*arguments, env=env, ready="^(handled 1|exported)")
    port = program.wait_for_output(r"metrics_served.*port=(\d+)")[1]

    def samples() -> dict[str, float]:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return told(answer.read().decode())

    wait_until(
        lambda: samples().get(f'pynomaly_messaging_sent_total{{queue="{queue}"}}') == 1, 15.0, "counts"
    )
    outcome = "done" if process == "worker" else "succeeded"
    handled = f'pynomaly_messaging_handler_seconds_count{{outcome="{outcome}",queue="{queue}"}}'
    wait_until(lambda: samples().get(handled) == 1, 15.0, "the handler's time")
    program.signal_group(signal.SIGTERM)
    wait_until(lambda: not program.is_running(), 10.0, "the end")
    quiet = programs.python(*arguments, "--once", env={**env, "PYNOMALY_MESSAGING__METRICS": "false"})
    wait_until(lambda: not quiet.is_running(), 20.0, "the second one to end")

    assert (program.returncode, quiet.returncode) == (0, 0)
    assert re.search("metrics_served", quiet.output()) is None
    assert "0 tries" in quiet.output()


def test_queues_made_without_options_are_as_the_settings_say(load_messaging: Load) -> None:
    settings = load_messaging(BACKEND="memory", MAX_SIZE="2", DEAD_LETTERS="false")

    async def use() -> dict[str, QueueOptions]:
        async with build_messaging(settings) as manager:
            await manager.create_queue("q")
            await manager.subscribe("s", "#")
            await manager.create_queue("own", QueueOptions(max_size=9))
            await manager.send_many("q", [1, 2])
            with pytest.raises(QueueFull, match="max_size of 2"):
                await manager.send("q", 3)
            return await manager.list_queues()

    made = asyncio.run(use())

    assert (made["q"].max_size, made["q"].dead_letters) == (2, False)
    assert (made["s"].max_size, made["s"].dead_letters) == (2, False)
    assert (made["own"].max_size, made["own"].dead_letters) == (9, True)


def test_worker_without_queues_or_a_group_says_what_to_name(load_messaging: Load) -> None:
    load_messaging(URL="redis://127.0.0.1:1/0")
    done = CliRunner().invoke(pynomaly, ["messaging", "worker", "--handlers", "os:getpid"])

    assert done.exit_code == 2
    assert "name --queues, or set messaging.consumer_group" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_SIZE", "0"),
        ("DEAD_LETTERS", "perhaps"),
        ("CONSUMER_GROUP", "<b>"),
        ("METRICS", "2"),
        ("CONSUMER_GROUP", ""),
    ],
)
def test_wrong_value_is_named(load_messaging: Load, name: str, value: str) -> None:
    from pynomaly_tasks.errors import InvalidSettings

    with pytest.raises(InvalidSettings, match=f"messaging.{name.lower()}"):
        load_messaging(**{name: value})

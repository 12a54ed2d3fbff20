"""What the message queues cost beside the bare client library that they stand on, and beside FastStream.

    python -m benchmarks.messaging [--brokers memory,redis_streams] [--rounds 6] [--probes 100]

Library: `QueueManager` and `Worker`, from a payload to a handler: checks, canonical JSON, checksum, id, lease,
settlement. Backend: our backend alone, with ready bytes. Bare: the client library as it comes, sending the same commands
with the same ready bytes and as many messages to a round trip; each broker's module says what they are. FastStream: its
broker and handler, up to 10 at once as our `Worker`; it promises less (no leases, no dead letters), as its module says.

Small blocks of all systems in turn, one process, one event loop. The rate and the CPU of the best block of the rounds,
which the machine's other work disturbed least; CPU is the client's, the server's is not in it. Ratios of rates: 80 %
means that ours does 80 messages while bare does 100.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.messaging_peers.kafka import EventHubsBench, KafkaBench
from benchmarks.messaging_peers.memory import MemoryBench
from benchmarks.messaging_peers.mqtt import MqttBench
from benchmarks.messaging_peers.pubsub import PubSubBench
from benchmarks.messaging_peers.rabbitmq import RabbitBench
from benchmarks.messaging_peers.redis_streams import RedisBench
from benchmarks.messaging_peers.sqs import SqsBench
from benchmarks.messaging_peers.systems import BackendAlone, Broker, Cost, FastStream, Library, System

BROKERS: dict[str, type[Broker]] = {
    each.name: each
    for each in (
        MemoryBench,
        RedisBench,
        RabbitBench,
        KafkaBench,
        EventHubsBench,
        MqttBench,
        SqsBench,
        PubSubBench,
    )
}
AT_ONCE = 100
#: A Kafka that has just started takes twenty times as long for the first messages.
WARM_S = 4.0
SYSTEMS = ("library", "backend", "bare", "FastStream")


async def timed(coroutine: Any, n_messages: int) -> Cost:
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    await coroutine
    return Cost(
        (time.perf_counter() - started_s) / n_messages, (time.process_time() - started_cpu_s) / n_messages
    )


async def measure(broker: Broker, systems: dict[str, System], n_rounds: int) -> dict[str, dict[str, Cost]]:
    """By operation and system, the best of the rounds; those before the server was warm are not counted."""
    costs: dict[str, dict[str, list[Cost]]] = {}
    ends_s = time.monotonic() + WARM_S
    while time.monotonic() < ends_s:
        await measure_round(broker, systems, {})
    order = list(systems)
    for turn in range(min(n_rounds, broker.max_rounds)):
        at = turn % len(order)
        in_turn = {name: systems[name] for name in [*order[at:], *order[:at]]}
        await measure_round(broker, in_turn, costs)
    return {
        operation: {
            name: Cost(min(each.wall_s for each in found), min(each.cpu_s for each in found))
            for name, found in by_system.items()
        }
        for operation, by_system in costs.items()
    }


async def measure_round(
    broker: Broker, systems: dict[str, System], costs: dict[str, dict[str, list[Cost]]]
) -> None:
    """Everything once, noted in ``costs``."""

    def note(operation: str, system: str, cost: Cost) -> None:
        costs.setdefault(operation, {}).setdefault(system, []).append(cost)

    for how, n, at_once in (
        ("one by one", broker.n_one_by_one, 1),
        (f"{AT_ONCE} at once", broker.n_at_once, AT_ONCE),
    ):
        for name, system in systems.items():
            note(f"send {how}", name, await timed(system.send(n, at_once), n))
            if isinstance(system, FastStream):  # it hands out nothing to take; see the handler
                await system.handle(n)
                await system.rest()
            else:
                note(f"take and acknowledge {how}", name, await timed(system.consume(n, at_once), n))
    for name, system in systems.items():
        if isinstance(system, (Library, FastStream)):
            await system.send(broker.n_at_once, AT_ONCE)
            note("handler", name, await system.handle(broker.n_at_once))
            await system.rest()


async def latencies(system: System, n_probes: int) -> tuple[float, float]:
    """p50 and p99 from the call of send to the consumer that waits, one at a time."""
    took_s = []
    arrived_s = 0.0

    def seen() -> None:
        nonlocal arrived_s
        arrived_s = time.perf_counter()

    system.seen = seen
    for _ in range(n_probes):
        waiting = asyncio.create_task(system.consume(1, 1))
        await asyncio.sleep(0.005)
        started_s = time.perf_counter()
        await system.send(1, 1)
        await waiting
        took_s.append(arrived_s - started_s)
    if isinstance(system, FastStream):
        await system.rest()
    took_s.sort()
    return took_s[n_probes // 2], took_s[min(n_probes - 1, n_probes * 99 // 100)]


def print_rates(broker: Broker, costs: dict[str, dict[str, Cost]]) -> None:
    for operation, found in costs.items():
        cells = [
            f"{1 / found[name].wall_s:,.0f} ({found[name].cpu_s * 1e6:.0f})" if name in found else "-"
            for name in SYSTEMS
        ]
        ratios = [
            f"{found[peer].wall_s / found[ours].wall_s:.0%} ({found[peer].cpu_s / found[ours].cpu_s:.0%})"
            if ours in found and peer in found
            else "-"
            for ours, peer in (("library", "bare"), ("backend", "bare"), ("library", "FastStream"))
        ]
        print("|", " | ".join([broker.name, operation, *cells, *ratios]), "|", flush=True)


async def run(broker: Broker, n_rounds: int, n_probes: int) -> list[str]:
    """Prints the rates; the rows of the latencies."""
    made: dict[str, System | None] = {
        "library": Library(broker.backend()),
        "backend": BackendAlone(broker.backend()),
        "bare": broker.bare(),
        "FastStream": broker.faststream(),
    }
    systems = {name: system for name, system in made.items() if system is not None}
    for system in systems.values():
        await system.open()
    try:
        print_rates(broker, await measure(broker, systems, n_rounds))
        rows = []
        for name, system in systems.items():
            p50_s, p99_s = await latencies(system, min(n_probes, broker.max_probes))
            rows.append(f"| {broker.name} | {name} | {p50_s * 1e3:.2f} | {p99_s * 1e3:.2f} |")
        return rows
    finally:
        for system in systems.values():
            await system.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--brokers", default=",".join(BROKERS), help="comma-separated; default: all")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--probes", type=int, default=100, help="messages for the latencies")
    options = parser.parse_args()
    peers.require("faststream")
    chosen = [BROKERS[name]() for name in options.brokers.split(",")]
    distributions = sorted({"faststream", *(name for broker in chosen for name in broker.distributions)})
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
    )
    print(
        f"{', '.join(f'{name} {version(name)}' for name in distributions)}. Best of {options.rounds} rounds, in turn.\n"
    )
    print("messages a second (client's CPU, us a message); ratios of rates (of CPU)\n")
    print(
        "| backend | operation | library | backend | bare | FastStream | library / bare | backend / bare | library / FastStream |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for broker in chosen:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pynomaly-bench-")))
            broker.start(stack, directory)
            rows += asyncio.run(run(broker, options.rounds, options.probes))
    print("\nfrom send to a consumer that waits, ms\n\n| backend | system | p50 | p99 |\n|---|---|---|---|")
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()

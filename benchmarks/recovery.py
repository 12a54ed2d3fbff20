"""How soon does a job go on after its worker was killed?

    python -m benchmarks.recovery [--kills 10] [--lease 20]

A job runs on one of two workers (it waits at an HTTP channel that holds it). The whole process group of the worker
that has it is SIGKILLed; the clock runs from there to the second attempt's start on the other worker, and to the
job's end. Defaults otherwise: the lease is renewed four times in its length and looked at every 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.table import spread
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.gate import Gate
from support.stack import Stack, client
from support.waiting import wait_until


def one_kill(stack: Stack, gate: Gate, number: int) -> tuple[float, float]:
    """Seconds to the second attempt's start, and to the job's end."""
    workers = [stack.worker("workers.all", "-c", "1", name=f"k{number}") for _ in range(2)]
    gate.shut()
    subject = f"kill {number}"
    job = stack.platform.submit("send_notification", {"body": "x", "subject": subject, "channels": "gate"})
    gate.wait_for(subject)
    node = stack.platform.store.list_attempts(job.id)[0].worker.split("#")[0]
    [victim] = [each for each in workers if node in [str(part) for part in each.command]]
    killed_at_s = time.time()
    victim.signal_group(signal.SIGKILL)
    wait_until(lambda: gate.subjects.count(subject) == 2, 120.0, "the second attempt")
    second = stack.platform.store.list_attempts(job.id)[1]
    gate.open()
    ended = stack.wait_for(job.id, timeout_s=60.0)
    assert ended.state is JobState.SUCCEEDED
    assert ended.finished_at is not None
    for worker in workers:
        worker.kill()
    return second.started_at.timestamp() - killed_at_s, ended.finished_at.timestamp() - killed_at_s


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--lease", type=float, default=20.0, help="the setting jobs.lease_s, in seconds")
    options = parser.parse_args()
    gate = Gate()
    with (
        tempfile.TemporaryDirectory(prefix="pynomaly-bench-") as name,
        RedisServer(Path(name) / "redis") as server,
    ):
        stack = Stack(Path(name) / "stack", server)
        stack.env = {
            **{key: value for key, value in stack.env.items() if not key.startswith("PYNOMALY_JOBS__")},
            "PYNOMALY_JOBS__LEASE_S": str(options.lease),
            "PYNOMALY_NOTIFICATIONS__CHANNELS": json.dumps({"gate": gate.channel}),
            "PYNOMALY_NOTIFICATIONS__TIMEOUT_S": "120",
        }
        with client(stack):
            try:
                seen = []
                for number in range(options.kills):
                    seen.append(one_kill(stack, gate, number))
                    print(f"kill {number + 1}: {seen[-1]}", file=sys.stderr, flush=True)
            finally:
                stack.close()
                gate.close()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}, celery {version('celery')}, SQLite. {options.kills} kills.\n")  # fmt: skip
    print("| lease, s | SIGKILL to running again, s: median (least-most) | to its end, s |\n|---|---|---|")
    cells = [spread(list(values), 1) for values in zip(*seen, strict=True)]
    print(f"| {options.lease:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

"""How soon is the slot of a cancelled job free?

    python -m benchmarks.cancel [--probes 30] [--load 8]

`workers.all` with one slot and the default settings. A job runs that looks at nothing (it never reaches a
checkpoint), or one that looks every 20 ms; another waits behind it. The clock runs from the call of `cancel` to
the first line of the job behind. "under load": so many processes that only count, beside the worker.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.table import spread
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.jobs import Engine
from support.processes import Programs
from support.waiting import wait_until


@contextmanager
def load(n_processes: int) -> Iterator[None]:
    """So many processes that use all the processor they get."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_processes)]
    try:
        if loops:
            time.sleep(2.0)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def one_cancel(engine: Engine, *, looks: bool) -> tuple[float, float]:
    """Seconds until the job behind began, and until its process, if a new one, was forked."""
    running = engine.submit(lasts_s=60.0, checkpoints=looks)
    following = engine.submit()
    engine.wait_for_start(running)
    time.sleep(random.uniform(0.5, 1.5))  # anywhere between two looks of the worker
    asked_at_s = time.time()
    engine.platform.cancel(running.id)
    started_at_s = engine.wait_for_start(following)
    [line] = engine.effects.list("start", following.id)
    forked_at_s = psutil.Process(line.pid).create_time()
    assert engine.wait_for(following).state is JobState.SUCCEEDED
    assert engine.wait_for(running).state is JobState.CANCELLED
    return started_at_s - asked_at_s, max(0.0, forked_at_s - asked_at_s)


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--probes", type=int, default=30)
    parser.add_argument("--load", type=int, default=8, help="processes that only count")
    options = parser.parse_args()
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="pynomaly-bench-") as name,
        RedisServer(Path(name) / "redis") as server,
    ):
        programs = Programs(Path(name) / "programs")
        engine = Engine(Path(name) / "engine", programs, server.url)
        engine.env = {
            key: value for key, value in engine.env.items() if not key.startswith("PYNOMALY_JOBS__")
        }
        try:
            worker = engine.worker(app="support.full_worker")
            wait_until(lambda: "imports_shared" in worker.output(), 60.0, "the worker's imports")
            for n_processes in (0, options.load):
                with load(n_processes):
                    for looks in (False, True):
                        seen = [one_cancel(engine, looks=looks) for _ in range(options.probes)]
                        rows.append((looks, n_processes, os.getloadavg()[0], seen))
                        print(rows[-1], file=sys.stderr, flush=True)
        finally:
            programs.close()
            engine.close()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {os.cpu_count()} cores, "
          f"celery {version('celery')}, SQLite. {options.probes} probes a row.\n")  # fmt: skip
    print(
        "| the running job | counting processes | load | cancel to the next job's first line, s: median (least-most) "
        "| over 2 s | cancel to a new child's fork, s |\n|---|---|---|---|---|---|"
    )
    for looks, n_processes, average, seen in rows:
        free, forked = ([each[at] for each in seen] for at in (0, 1))
        print(
            f"| {'looks' if looks else 'never looks'} | {n_processes} | {average:.1f} | {spread(free, 2)} "
            f"| {sum(value > 2.0 for value in free)} of {len(free)} | {'-' if looks else spread(forked, 2)} |"
        )


if __name__ == "__main__":
    main()

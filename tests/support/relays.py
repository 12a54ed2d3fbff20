"""Relays as processes over a real store and a real log, events for them, and what the log holds in the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from sqlalchemy import insert

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.outbox import OutboxLag
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.tables import outbox
from support.jobs import settings_from
from support.processes import Program, Programs
from support.threads import beside
from support.waiting import wait_until

TOPIC = "job_events"
#: Short, so that what takes a lease in production takes a moment here.
LEASE_S = 1.5
QUICK = {
    "PYNOMALY_OUTBOX__LEASE_S": str(LEASE_S),
    "PYNOMALY_OUTBOX__POLL_S": "0.2",
    "PYNOMALY_OUTBOX__BACKOFF_MAX_S": "0.5",
    "PYNOMALY_OUTBOX__BATCH_SIZE": "100",
    "PYNOMALY_KAFKA__TIMEOUT_S": "2",
    "PYNOMALY_REDIS__SOCKET_TIMEOUT_S": "2",
    "PYNOMALY_LOG__FORMAT": "json",
}


class Relays:
    """Relay processes with one outbox and one log."""

    def __init__(self, directory: Path, programs: Programs, env: Mapping[str, str]) -> None:
        self.env = {**QUICK, "PYNOMALY_DATA__DIRECTORY": str(directory / "platform"), **env}
        self.platform = Platform(settings_from(self.env))
        self.store = self.platform.store
        self._programs = programs
        self.running: list[Program] = []
        self.written: dict[str, list[str]] = defaultdict(list)

    def start(self, **env: str) -> Program:
        """Start one more, and wait until it looks for the lease."""
        program = self._programs.python("-m", "workers.relay", name="relay", env={**self.env, **env})
        self.running.append(program)
        return program

    def lag(self) -> OutboxLag:
        """Of the outbox."""
        return self.store.get_outbox_lag()

    def leader(self) -> Program | None:
        """The relay that publishes now."""
        holder = self.lag().relay
        if holder is None:
            return None
        pid = int(holder.split(":")[1])
        return next((program for program in self.running if program.pid == pid), None)

    def wait_for_leader(self, timeout_s: float = 30.0) -> Program:
        """The relay that publishes, once there is one."""

        def found() -> Program | None:
            program = self.leader()
            return program if program is not None and program.is_running() else None

        return wait_until(found, timeout_s, "a relay to lead")

    def end(self, program: Program) -> None:
        """SIGKILL it."""
        program.kill()
        self.running.remove(program)

    def write(self, *keys: str, filler: str = "") -> None:
        """One event for each key, in one transaction."""
        rows = [
            {
                "event_id": new_id(),
                "topic": TOPIC,
                "key": key,
                "type": "job.started",
                "payload": {"job_id": key, "filler": filler},
            }
            for key in keys
        ]
        with self.store._db.writing() as connection:
            connection.execute(insert(outbox).values(created_at=server_now()), rows)
        for row in rows:
            self.written[str(row["key"])].append(str(row["event_id"]))

    @contextmanager
    def writing(self, n_keys: int = 20, pause_s: float = 0.02, filler: str = "") -> Iterator[list[float]]:
        """Write events of that many keys all the while; the list holds how long each commit took, in seconds."""
        took_s: list[float] = []
        stopping = threading.Event()

        def write() -> None:
            while not stopping.wait(pause_s):
                started_s = time.perf_counter()
                self.write(*(f"key-{number}" for number in range(n_keys)), filler=filler)
                took_s.append(time.perf_counter() - started_s)
                self.platform.bell.ring()

        with beside(write, timeout_s=60):
            try:
                yield took_s
            finally:
                stopping.set()

    def wait_until_drained(self, timeout_s: float = 60.0) -> None:
        """Nothing waits to be published."""
        wait_until(lambda: self.lag().n_unsent == 0, timeout_s, "the outbox to be empty", every_s=0.1)

    def published(self) -> dict[str, list[str]]:
        """Event ids of each key in the order of the log."""
        n_most = 3 * sum(map(len, self.written.values())) + 10_000
        records = asyncio.run(
            self.platform.event_reader().read(TOPIC, since=0, until=None, max_records=n_most)
        )
        assert len(records) < n_most
        found: dict[str, list[str]] = defaultdict(list)
        for record in records:
            found[(record.key or b"").decode()].append(dict(record.headers)["ce_id"].decode())
        return found

    def check_published(self) -> int:
        """Nothing is lost, first occurrences are in their key's order; how many were repetitions."""
        found = self.published()
        n_repeated = 0
        for key, ids in self.written.items():
            firsts = list(dict.fromkeys(found[key]))
            assert firsts == ids, (
                f"{key}: {len(ids)} written, {len(firsts)} found, first difference at "
                + str(
                    next((n for n, (a, b) in enumerate(zip(ids, firsts, strict=False)) if a != b), "the end")
                )
            )
            n_repeated += len(found[key]) - len(ids)
        return n_repeated

    def close(self) -> None:
        """Close this process's connections; the programs end by their own fixture."""
        self.platform.close()
        self.platform.bell.close()


def memory_bytes(program: Program) -> int:
    """What the process holds in memory by itself."""
    info = psutil.Process(program.pid).memory_info()
    return int(info.rss)

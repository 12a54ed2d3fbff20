"""A process that reads the log on Redis Streams as a member of a group, and applies each record once.

Its effect is a row of a SQLite file, so the file has the order in which records were applied first,
whichever process did it.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pynomaly_tasks.errors import EventLogUnavailable, PartitionLost
from pynomaly_tasks.events.ports import Partition
from pynomaly_tasks.events.redis_streams.consumer import RedisConsumer

GROUP = "killed"
TOPICS = {"faults": 4}
LEASE_S = 1.5
TIMEOUT_S = 1.0
_BUSY_S = 30.0


def create_effects(file: Path) -> None:
    with closing(sqlite3.connect(file)) as effects:
        effects.execute("PRAGMA journal_mode = WAL")
        effects.execute(
            "CREATE TABLE applied (place INTEGER PRIMARY KEY AUTOINCREMENT, key, number, UNIQUE (key, number))"
        )
        effects.commit()


def applied(file: Path) -> list[tuple[str, int]]:
    """Key and number of each record, in the order in which they were applied first."""
    with closing(sqlite3.connect(file, timeout=_BUSY_S)) as effects:
        return effects.execute("SELECT key, number FROM applied ORDER BY place").fetchall()


class _Member:
    def __init__(self, url: str, effects: sqlite3.Connection) -> None:
        self._consumer = RedisConsumer(url, GROUP, TOPICS, lease_s=LEASE_S, timeout_s=TIMEOUT_S)
        self._effects = effects
        self._one_at_a_time = asyncio.Lock()

    async def revoked(self, partitions: Collection[Partition]) -> None:
        async with self._one_at_a_time:
            return  # what was begun is applied and committed

    async def run(self) -> None:
        while True:
            try:
                await self._consumer.start(self)
                break
            except EventLogUnavailable:
                await asyncio.sleep(0.05)
        print("joined", flush=True)
        while True:
            try:
                await self._round()
            except EventLogUnavailable:
                print("away", flush=True)
                await asyncio.sleep(0.05)
            except PartitionLost as error:
                print("lost", error, flush=True)

    async def _round(self) -> None:
        found: dict[Partition, Any] = dict(await self._consumer.poll(20, 0.2))
        async with self._one_at_a_time:
            for partition, records in found.items():
                rows = [(record.key.decode(), int(record.value)) for record in records]
                await asyncio.to_thread(self._apply, rows)
                await self._consumer.commit({partition: records[-1].offset + 1})

    def _apply(self, rows: Sequence[tuple[str, int]]) -> None:
        self._effects.executemany("INSERT OR IGNORE INTO applied (key, number) VALUES (?, ?)", rows)
        self._effects.commit()


def main(url: str, file: str) -> None:
    with closing(sqlite3.connect(file, timeout=_BUSY_S, check_same_thread=False)) as effects:
        effects.execute("PRAGMA synchronous = OFF")  # processes are killed, not the machine
        asyncio.run(_Member(url, effects).run())


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))

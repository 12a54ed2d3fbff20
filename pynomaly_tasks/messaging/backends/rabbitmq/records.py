"""What every process on one RabbitMQ knows: the catalog, and who acknowledged what; each from a log.

A process that reads a log to its end has what every other has: records take effect in the order in
which the server has them, so of two that declare one name the same one wins everywhere.
"""

from __future__ import annotations

import base64
import time
import uuid

import orjson

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backend import Catalog, Note
from pynomaly_tasks.messaging.backends.rabbitmq.log import StreamLog

_SWEEP_EVERY = 1_000


class SharedCatalog:
    """The catalog's records, from a log that keeps all."""

    def __init__(self, log: StreamLog, timeout_s: float) -> None:
        self._log = log
        self._timeout_s = timeout_s
        self._records: dict[str, bytes] = {}
        self._version = 0
        #: This process's own steps that are on their way: whether they changed something, None: not seen yet.
        self._awaited: dict[str, bool | None] = {}

    async def read(self) -> Catalog:
        """All records, as they are now."""
        for at, line in await self._log.read_new():
            self._apply(at, line)
        return Catalog(self._version, dict(self._records))

    async def declare(self, name: str, record: bytes) -> bytes:
        """As `PlainBroker.declare`."""
        if name not in (await self.read()).records:
            await self._do({"declare": name, "record": base64.b64encode(record).decode()})
        # Somebody may have forgotten it since; then ours was the last that stood.
        return self._records.get(name, record)

    async def forget(self, name: str) -> bool:
        """As `PlainBroker.forget`."""
        return name in (await self.read()).records and await self._do({"forget": name})

    async def _do(self, step: dict[str, str]) -> bool:
        """Add a step, and read until it took effect; whether it changed something."""
        mark = uuid.uuid4().hex
        self._awaited[mark] = None
        try:
            await self._log.append(orjson.dumps(step | {"id": mark}))
            end = time.monotonic() + self._timeout_s
            while (did := self._awaited[mark]) is None:
                # Once, unless another node of a cluster, which is a little behind, answers the reading.
                await self.read()
                if self._awaited[mark] is None and time.monotonic() > end:
                    raise BrokerUnavailable(
                        "RabbitMQ confirmed a record of the catalog, and does not show it"
                    )
            return did
        finally:
            del self._awaited[mark]

    def _apply(self, at: int, line: bytes) -> None:
        step: dict[str, str] = orjson.loads(line)
        if "declare" in step:
            does_change = step["declare"] not in self._records
            if does_change:
                self._records[step["declare"]] = base64.b64decode(step["record"])
        else:
            does_change = self._records.pop(step["forget"], None) is not None
        if does_change:
            self._version = at + 1
        if step["id"] in self._awaited:
            self._awaited[step["id"]] = does_change


class SharedNotes:
    """Small sets, from a log that drops what is old."""

    def __init__(self, log: StreamLog) -> None:
        self._log = log
        self._members: dict[str, tuple[float, set[str]]] = {}
        self._n = 0

    async def add(self, note: Note) -> None:
        """As `PlainBroker.add_note`."""
        line = {"key": note.key, "member": note.member, "until": time.time() + note.keep_s}
        await self._log.append(orjson.dumps(line))

    async def read(self, key: str) -> frozenset[str]:
        """As `PlainBroker.read_notes`."""
        for _, line in await self._log.read_new():
            note = orjson.loads(line)
            until, members = self._members.get(note["key"], (0.0, set()))
            self._members[note["key"]] = (max(until, note["until"]), members | {note["member"]})
            self._n += 1
            if self._n % _SWEEP_EVERY == 0:
                now = time.time()
                self._members = {name: found for name, found in self._members.items() if found[0] > now}
        return frozenset(self._members.get(key, (0.0, set()))[1])

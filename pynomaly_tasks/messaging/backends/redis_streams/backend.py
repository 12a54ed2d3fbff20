"""Queues on Redis Streams: one server (Redis 7.0 or newer, or Valkey), several processes.

| capability | how |
|---|---|
| ack, groups | native: a consumer group on a stream a priority; settled entries are deleted, nothing is ever trimmed |
| a dead consumer's entries | found by the end of their lease, however many fresh ones lie before them |
| priority, order | native: a stream a priority, the best one read first; in order within it |
| delay | native: a sorted set by due time, beside the streams, so that it blocks nobody |
| deduplication, ttl, leases | native, by the server's clock |
| dead_letters, confirmations | native: a settlement and what follows from it are one step |
| max_size, depth, purge | native |
| persistence | native, as the server's own: with `appendfsync everysec` a power cut takes the last second |
| replay | absent: what is settled is deleted |

Each step is one Lua script (`scripts/`), so a crash leaves it done or not begun.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
import time
import uuid
from collections.abc import Hashable, Sequence
from dataclasses import fields
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from pynomaly_tasks.messaging.backend import (
    Catalog,
    Entry,
    Held,
    Measure,
    Note,
    Put,
    Settlement,
    Stored,
)
from pynomaly_tasks.messaging.backends.coalescing import Coalescer
from pynomaly_tasks.messaging.backends.redis_streams.connections import RedisConnections, closed
from pynomaly_tasks.messaging.backends.redis_streams.tasks import RedisTaskRecords, Script
from pynomaly_tasks.messaging.capabilities import Capabilities, Support

_N = Support.NATIVE
Argument = str | bytes | int

#: A consumer that waits looks by itself this often, should a token not reach it.
_LONGEST_WAIT_S = 1.0
#: On their way at once; those of consumers that wait come on top.
_MAX_COMMANDS = 32
_KEY = re.compile(r"\d{1,20}-\d{1,20}")
_COUNTS = frozenset(field.name for field in fields(Measure))


class RedisStreamsBackend:
    """A connection to the channels of one namespace. ``url``: redis:// or rediss://, with a database."""

    name = "redis_streams"
    capabilities = Capabilities(
        ack=_N, groups=_N, priority=_N, delay=_N, deduplication=_N, ttl=_N, dead_letters=_N, order=_N,
        max_size=_N, confirmations=_N, depth=_N, purge=_N, tasks=_N, persistence=_N,
    )  # fmt: skip

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "pynomaly:messaging",
        connect_timeout_s: float = 2.0,
        timeout_s: float = 10.0,
    ) -> None:
        """Nothing is connected yet. ``timeout_s``: an unanswered command fails after it."""
        self._url = url
        self._namespace = namespace
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._consumer = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._connections: RedisConnections | None = None
        self._start_anew()

    def _start_anew(self) -> None:
        """What belongs to one event loop."""
        self._slots = asyncio.Semaphore(_MAX_COMMANDS)
        self._puts = Coalescer(self._put, lambda entry: len(entry.body))
        self._settlements = Coalescer(
            self._settle, lambda settlement: sum(len(entry.body) for entry in settlement.then)
        )

    async def open(self) -> None:
        """Connect, and forget consumers that died long ago."""
        if self._connections is not None:
            return
        self._start_anew()
        self._connections = RedisConnections(
            self._url, connect_timeout_s=self._connect_timeout_s, timeout_s=self._timeout_s
        )
        try:
            await self.ping()
            for name in (await self.read_catalog()).records:
                kind, _, channel = name.partition("/")
                if kind == "queue":
                    await self._run("tidy", channel)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Give the connections back, when what is on its way is settled."""
        await self._settlements.flush()
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    async def ping(self) -> None:
        """One round trip."""
        await self._ask("PING")

    async def read_catalog(self) -> Catalog:
        """All records."""
        found = _pairs(await self._ask("HGETALL", f"{self._namespace}:catalog"))
        version = int(found.pop(b"", 0))
        return Catalog(version, {name.decode(): record for name, record in found.items()})

    async def declare(self, name: str, record: bytes) -> bytes:
        """Keep the record, or return the one that stands."""
        return bytes(await self._run("declare", name, record))

    async def forget(self, name: str) -> bool:
        """Drop a record."""
        return bool(await self._run("forget", name))

    async def put(self, entries: Sequence[Entry], *, catalog_version: int) -> list[Put]:
        """Put them in order, in one step."""
        return await self._puts.call(catalog_version, entries)

    async def _put(self, catalog_version: Hashable, entries: Sequence[Entry]) -> list[Put]:
        assert isinstance(catalog_version, int)
        arguments: list[Argument] = [catalog_version]
        for entry in entries:
            arguments += _entry(entry)
            arguments += [entry.deduplication_key, _ms(entry.deduplication_s)]
            arguments.append("" if entry.max_size is None else entry.max_size)
        return [Put(word.decode()) for word in await self._run("put", *arguments)]

    async def take(
        self,
        channel: str,
        *,
        max_entries: int,
        lease_s: float,
        wait_s: float,
        catalog_version: int,
        lowest: bool = False,
    ) -> list[Held]:
        """Up to ``max_entries`` in order."""
        end = time.monotonic() + wait_s
        while True:
            answer = await self._run(
                "take", catalog_version, channel, self._consumer, max_entries, _ms(lease_s), int(lowest)
            )
            left = end - time.monotonic()
            if len(answer) > 1 or left <= 0:
                return [self._held(channel, *answer[at : at + 6]) for at in range(1, len(answer), 6)]
            due_s = answer[0] / 1000 if answer[0] >= 0 else _LONGEST_WAIT_S
            await self._wait(channel, min(left, due_s, _LONGEST_WAIT_S))

    def _held(
        self,
        channel: str,
        key: bytes,
        message_id: bytes,
        body: bytes,
        priority: Any,
        count: int,
        expired: int,
    ) -> Held:
        return Held(
            channel=channel,
            key=key.decode(),
            fence=str(count),
            message_id=message_id.decode("utf-8", "replace"),
            body=body,
            priority=int(priority),
            n_deliveries=count,
            is_expired=bool(expired),
        )

    async def _wait(self, channel: str, wait_s: float) -> None:
        """Until there may be something, or ``wait_s`` passed."""
        if wait_s < 0.005:
            # The server knows no shorter wait than about this, and 0 would be for ever.
            await asyncio.sleep(0.001)
            return
        await self._ask("BLPOP", f"{self._namespace}:c:{channel}:wake", f"{wait_s:.3f}", waits_s=wait_s)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """End them, each with what follows from it, in one step."""
        return await self._settlements.call(None, settlements)

    async def _settle(self, _: Hashable, settlements: Sequence[Settlement]) -> list[bool]:
        arguments: list[Argument] = [self._consumer]
        for settlement in settlements:
            held, note = settlement.held, settlement.note or Note(key="", member="", keep_s=0.0)
            arguments += [held.channel, held.key, held.fence, settlement.outcome.value]
            arguments += [round(settlement.handled_s * 1e6), note.key, note.member, _ms(note.keep_s)]
            arguments.append(len(settlement.then))
            for entry in settlement.then:
                arguments += _entry(entry)
        return [bool(answer) for answer in await self._run("settle", *arguments)]

    async def give_back(self, held: Held, *, delay_s: float, counted: bool) -> bool:
        """Hand it out again after ``delay_s``."""
        answer = await self._run(
            "give_back", self._consumer, held.channel, held.key, held.fence, _ms(delay_s), int(counted)
        )
        return bool(answer)

    async def extend(self, held: Sequence[Held], *, lease_s: float) -> list[bool]:
        """Let the leases end later."""
        arguments: list[Argument] = [self._consumer, _ms(lease_s)]
        for each in held:
            arguments += [each.channel, each.key, each.fence]
        return [bool(answer) for answer in await self._run("extend", *arguments)]

    async def purge(self, channel: str) -> int:
        """Remove what waits or is delayed."""
        return int(await self._run("purge", channel))

    async def erase(self, channel: str) -> None:
        """Remove the channel."""
        await self._run("erase", channel)

    async def measure(self, channel: str) -> Measure:
        """Count it."""
        in_flight, delayed, oldest_ms, *facts = await self._run("measure", channel)
        counts = {facts[at].decode(): int(facts[at + 1]) for at in range(0, len(facts), 2)}
        return Measure(
            in_flight=in_flight,
            delayed=delayed,
            oldest_age_s=oldest_ms / 1000,
            handled_s=counts.pop("handled_us", 0) / 1e6,
            **{name: count for name, count in counts.items() if name in _COUNTS},
        )

    async def browse(self, channel: str, *, after: str, limit: int) -> list[Stored]:
        """Entries of priority 0, in order."""
        stream, start = f"{self._namespace}:c:{channel}:s:0", f"({after}" if after else "-"
        found = await self._ask("XRANGE", stream, start, "+", "COUNT", limit)
        return [_stored(key, fields) for key, fields in found]

    async def find(self, channel: str, key: str) -> Stored | None:
        """One entry of priority 0 by its key."""
        if not _KEY.fullmatch(key):
            return None
        stream = f"{self._namespace}:c:{channel}:s:0"
        found = await self._ask("XRANGE", stream, key, key)
        return _stored(*found[0]) if found else None

    async def remove(self, channel: str, key: str, *, then: Sequence[Entry] = ()) -> bool:
        """Remove one that was never handed out, and put what follows, in one step."""
        arguments: list[Argument] = [channel, key]
        for entry in then:
            arguments += _entry(entry)
        return bool(await self._run("remove", *arguments))

    async def read_notes(self, key: str) -> frozenset[str]:
        """The members noted under the key."""
        members = await self._ask("SMEMBERS", f"{self._namespace}:notes:{key}")
        return frozenset(member.decode() for member in members)

    def task_records(self) -> RedisTaskRecords:
        """Where tasks stand, kept beside their queues."""
        return RedisTaskRecords(self._run_script)

    async def _run(self, step: str, *arguments: Argument) -> Any:
        return await self._run_script(_SCRIPTS[step], *arguments)

    async def _run_script(self, script: Script, *arguments: Argument) -> Any:
        source, sha = script
        async with self._slots:
            try:
                return await self._ask("EVALSHA", sha, 1, self._namespace, *arguments)
            except NoScriptError:
                return await self._ask("EVAL", source, 1, self._namespace, *arguments)

    async def _ask(self, *command: Argument, waits_s: float = 0.0) -> Any:
        if self._connections is None:
            raise closed()
        return await self._connections.ask(*command, waits_s=waits_s)


def _stored(key: bytes, fields: Sequence[bytes]) -> Stored:
    values = _pairs(fields)
    return Stored(key=key.decode(), message_id=values[b"i"].decode("utf-8", "replace"), body=values[b"b"])


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _ms(seconds: float) -> int:
    """Whole milliseconds, rounded up: nothing comes before its time."""
    return math.ceil(seconds * 1000)


def _entry(entry: Entry) -> tuple[Argument, ...]:
    ttl: Argument = "" if entry.ttl_s is None else _ms(entry.ttl_s)
    return (entry.channel, entry.message_id, entry.body, entry.priority, _ms(entry.delay_s), ttl)


def _load(step: str) -> tuple[str, str]:
    folder = files(__package__) / "scripts"
    source = "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in ("channel", step))
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


_STEPS = (
    "put",
    "take",
    "settle",
    "give_back",
    "extend",
    "purge",
    "erase",
    "measure",
    "remove",
    "declare",
    "forget",
)
_SCRIPTS = {step: _load(step) for step in (*_STEPS, "tidy")}

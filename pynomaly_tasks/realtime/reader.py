"""One reader of a live stream a process, and a queue for each client that watches it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pynomaly_tasks.errors import Unavailable
from pynomaly_tasks.realtime.streams import BEGINNING, DASHBOARD_STREAM, DATA_FIELD, EntryId
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

_Entry: TypeAlias = tuple[bytes, dict[bytes, bytes]]

_BLOCK_MS = 5_000
_BATCH = 200
_CATCH_UP_S = 0.1
_LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One entry, read and decoded once for all clients."""

    id: EntryId
    data: str  #: the JSON as it was published
    job_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Updates are missing between the one before and the one after: ask for the present state."""

    reason: str


class TooManyClients(Unavailable):
    """As many clients watch through this process as it is allowed to serve."""


class _Client:
    """What one client has still to be told; never more than ``max_waiting`` entries."""

    def __init__(self, job_id: str | None, max_waiting: int) -> None:
        self.job_id = job_id
        self.max_waiting = max_waiting
        self.waiting: deque[Update | Gap] = deque()
        self.closed = False
        self.changed = asyncio.Event()

    def offer(self, item: Update | Gap) -> None:
        if self.closed or (self.job_id and isinstance(item, Update) and item.job_id != self.job_id):
            return
        if len(self.waiting) >= self.max_waiting:
            self.waiting.clear()
            self.waiting.append(Gap(reason=f"read too slowly: {self.max_waiting} updates were waiting"))
            self.closed = True
        else:
            self.waiting.append(item)
        self.changed.set()

    def close(self) -> None:
        self.closed = True
        self.changed.set()

    async def take(self) -> Update | Gap | None:
        while not self.waiting:
            if self.closed:
                return None
            self.changed.clear()
            await self.changed.wait()
        return self.waiting.popleft()


class StreamHub:
    """Reads the stream once and gives each entry to every client.

    Start and stop it with the process, inside its event loop. While Redis is away clients wait; the
    reader goes on from the last entry it saw, and tells every client of a gap when it cannot.
    """

    def __init__(
        self, url: str, stream: str = DASHBOARD_STREAM, *, max_waiting: int = 1_000, max_clients: int = 1_000
    ) -> None:
        self._url = url
        self._stream = stream
        self._max_waiting = max_waiting
        self._max_clients = max_clients
        self._clients: set[_Client] = set()
        self._redis: Any = None  # its replies are typed as all that they could be under any option
        self._reader: asyncio.Task[None] | None = None
        self._seen: EntryId | None = None

    @property
    def n_clients(self) -> int:
        """Clients that are watching now."""
        return len(self._clients)

    async def start(self) -> None:
        """Begin to read. Redis may be down: the reader waits for it."""
        self._redis = Redis.from_url(
            self._url,
            socket_timeout=_BLOCK_MS / 1_000 * 2,
            socket_connect_timeout=2.0,
            retry=Retry(NoBackoff(), 0),
        )
        self._reader = asyncio.create_task(self._read(), name=f"reader of {self._stream}")

    async def stop(self) -> None:
        """End every client's updates, and the reader."""
        for client in self._clients:
            client.close()
        if self._reader is not None:
            # Python 3.11's wait_for, which redis-py sends with, swallows a cancellation that comes
            # just as the command has been sent: so cancel until it has worked.
            while not self._reader.done():
                self._reader.cancel()
                await asyncio.wait({self._reader}, timeout=0.1)
            self._reader = None
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None

    def check_room(self) -> None:
        """Raises TooManyClients when no other client can be served."""
        if len(self._clients) >= self._max_clients:
            raise TooManyClients(f"{self._max_clients} clients are watching already; try again in a while")

    async def is_reachable(self, timeout_s: float = 2.0) -> bool:
        """Whether Redis answers within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                return bool(await self._connection().ping())
        except (RedisError, OSError, TimeoutError):
            return False

    async def updates(
        self, *, after: EntryId | None = None, job_id: str | None = None
    ) -> AsyncGenerator[Update | Gap]:
        """What happens from now on, or after the entry that the client saw last; of one job, or of all.

        Ends when the hub stops, and after the Gap of a client that read too slowly. Raises TooManyClients.
        """
        self.check_room()
        client = _Client(job_id, self._max_waiting)
        self._clients.add(client)
        try:
            replayed = BEGINNING
            for missed in [] if after is None else await self._missed(after):
                if isinstance(missed, Update):
                    replayed = missed.id
                    if job_id is not None and missed.job_id != job_id:
                        continue
                yield missed
            while (item := await client.take()) is not None:
                if isinstance(item, Gap) or item.id > replayed:
                    yield item
        finally:
            self._clients.discard(client)

    def _connection(self) -> Any:
        if self._redis is None:
            raise RuntimeError("the hub was not started")
        return self._redis

    async def _missed(self, after: EntryId) -> list[Update | Gap]:
        """The entries later than ``after``; a Gap first, when the stream no longer reaches back to it."""
        try:
            oldest, newest = await self._oldest(), await self._newest()
            entries: list[_Entry] = await self._connection().xrange(self._stream, min=f"({after}")
        except (RedisError, OSError):
            return [Gap(reason="the stream does not answer")]
        if after > newest:
            return [Gap(reason="the stream was started anew")]
        updates = [_decode(entry) for entry in entries]
        if oldest > after:
            return [Gap(reason="the stream no longer holds what came after the last update seen"), *updates]
        return [*updates]

    async def _oldest(self) -> EntryId:
        return _id_of_first(await self._connection().xrange(self._stream, count=1))

    async def _newest(self) -> EntryId:
        return _id_of_first(await self._connection().xrevrange(self._stream, count=1))

    async def _read(self) -> None:
        pause_s, lost = 0.0, False
        while True:
            try:
                await self._find_place(after_outage=lost)
                if lost:
                    log.info("live_stream_found_again", stream=self._stream)
                pause_s, lost = 0.0, False
                while True:
                    await self._read_batch()
            except (RedisError, OSError) as error:
                if not lost:
                    reason = f"{type(error).__name__}: {error}"
                    log.warning("live_stream_lost", stream=self._stream, reason=reason)
                lost = True
                pause_s = min(max(0.1, pause_s * 2), _LONGEST_PAUSE_S)
                await asyncio.sleep(pause_s)

    async def _find_place(self, *, after_outage: bool) -> None:
        """Read on at the end the first time; after an outage where the reader left off, if it can."""
        newest = await self._newest()
        if self._seen is None:
            self._seen = newest
            if after_outage:
                self._offer(Gap(reason="the stream could not be read until now"))
        elif newest < self._seen:
            self._seen = BEGINNING
            self._offer(Gap(reason="the stream was started anew"))
        elif await self._oldest() > self._seen:
            self._offer(Gap(reason="updates were trimmed while the stream could not be read"))

    async def _read_batch(self) -> None:
        answer: list[tuple[bytes, list[_Entry]]] = await self._connection().xread(
            {self._stream: str(self._seen)}, count=_BATCH, block=_BLOCK_MS
        )
        for _, entries in answer:
            if len(entries) == _BATCH and self._seen != BEGINNING:
                await self._check_for_trimming(_id_of_first(entries))
            for entry in entries:
                update = _decode(entry)
                self._seen = update.id
                self._offer(update)
        if answer:
            await self._let_clients_catch_up()

    async def _check_for_trimming(self, first_read: EntryId) -> None:
        """A reader this far behind may have been overtaken: it then reads the oldest entry there is."""
        if await self._oldest() >= first_read:
            self._offer(Gap(reason="updates were trimmed before they could be read"))

    async def _let_clients_catch_up(self) -> None:
        """In a burst, wait for the clients before the next batch; but one that is slow never holds up the rest."""
        end = time.monotonic() + _CATCH_UP_S
        while time.monotonic() < end and any(
            len(client.waiting) > self._max_waiting // 2 for client in self._clients
        ):
            await asyncio.sleep(_CATCH_UP_S / 20)

    def _offer(self, item: Update | Gap) -> None:
        for client in self._clients:
            client.offer(item)


def _id_of_first(entries: list[_Entry]) -> EntryId:
    return EntryId.parse(entries[0][0].decode()) if entries else BEGINNING


def _decode(entry: _Entry) -> Update:
    """An entry as it is passed on. What is not our JSON is passed on too: it belongs to no job."""
    entry_id, fields = entry
    data = fields.get(DATA_FIELD.encode(), b"null")
    try:
        content: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        content, data = None, b"null"
    job_id = content.get("job_id") if isinstance(content, dict) else None
    return Update(
        id=EntryId.parse(entry_id.decode()),
        data=data.decode(),
        job_id=job_id if isinstance(job_id, str) else None,
    )

"""Reads the live streams, once for all who watch, and knows what they still hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from pynomaly_tasks.realtime.history import History, before
from pynomaly_tasks.realtime.position import START, Position
from pynomaly_tasks.realtime.streams import BEGINNING, DASHBOARD, DATA_FIELD, STREAM_NAMES, STREAMS, EntryId
from pynomaly_tasks.realtime.update import Away, Back, Gap, Update, build_update
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

_Entry: TypeAlias = tuple[bytes, dict[bytes, bytes]]

_BLOCK_MS = 5_000
_BATCH = 200
_LONGEST_PAUSE_S = 1.0


class StreamReader:
    """Follows all live streams over one connection; calls back with what it finds, in order.

    Start and stop it with the process, inside its event loop. While Redis is away it tries on, and
    goes on from the last entry it saw; where it cannot, it says that there is a gap.
    """

    def __init__(
        self,
        url: str,
        *,
        on_updates: Callable[[list[Update]], None],
        on_notice: Callable[[Away | Back | Gap], None],
        history_length: int = 1_000,
    ) -> None:
        self.position: Position | None = None  #: None until the streams were found
        self.histories = [History(history_length) for _ in STREAMS]
        self.is_away = False
        self.pace: Callable[[], Any] | None = None  #: awaited after each batch
        self._url = url
        self._history_length = history_length
        self._on_updates = on_updates
        self._on_notice = on_notice
        self._read_up_to = [BEGINNING] * len(STREAMS)
        self._redis: Any = None  # its replies are typed as all that they could be under any option
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._n_read = 0

    async def start(self) -> None:
        """Begin to read. Redis may be down: the reader waits for it."""
        self._redis = Redis.from_url(
            self._url,
            socket_timeout=_BLOCK_MS / 1_000 * 2,
            socket_connect_timeout=2.0,
            retry=Retry(NoBackoff(), 0),
        )
        self._task = asyncio.create_task(self._read(), name="reader of the live streams")

    async def stop(self) -> None:
        """End the reading."""
        if self._task is not None:
            # Python 3.11's wait_for, which redis-py sends with, swallows a cancellation that comes
            # just as the command has been sent: so cancel until it has worked.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=0.1)
            self._task = None
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None

    async def is_reachable(self, timeout_s: float = 2.0) -> bool:
        """Whether Redis answers within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                return bool(await self._connection().ping())
        except (RedisError, OSError, TimeoutError):
            return False

    async def catch_up(self, position: Position, timeout_s: float = 2.0) -> None:
        """Wait until the streams are found and what another process has read of them is read here too.

        Not longer than this, not while Redis is away, and not for what the streams do not hold.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.position is None and not self.is_away:
                    await self._next_move()
                if self.is_away or self._has_read(position):
                    return
                held = [await self._newest(stream) for stream in range(len(STREAMS))]
                if any(seen > newest for seen, newest in zip(position.entries, held, strict=True)):
                    return  # of streams that are no more
                while not self._has_read(position):
                    await self._next_move()
        except (RedisError, OSError, TimeoutError):
            return

    async def _next_move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def missed(self, after: Position) -> tuple[Gap | None, list[Update]]:
        """What came after, in order, and the Gap before it if that is not all. To be asked once there is a position.

        Of a dashboard stream with a gap nothing is given: the present state of the jobs is newer.
        """
        start, streams, reason = list(after.entries), list[str](), ""
        for stream, (seen, history) in enumerate(zip(after.entries, self.histories, strict=True)):
            if seen > history.newest:
                reason = "the stream was started anew"
            elif not history.reaches_back_to(seen):
                reason = "the stream no longer holds what came after the last update seen"
            else:
                continue
            streams.append(STREAM_NAMES[stream])
            start[stream] = history.newest if stream == DASHBOARD else history.complete_after
        place = Position(tuple(start))
        found = [
            update
            for seen, history in zip(start, self.histories, strict=True)
            for update in history.after(seen)
        ]
        found.sort(key=lambda update: update.number)
        gap = Gap(reason=reason, streams=tuple(streams), position=place) if streams else None
        return gap, [update.seen_from(place) for update in found]

    def _has_read(self, position: Position) -> bool:
        pairs = zip(position.entries, self.histories, strict=True)
        return all(seen <= history.newest for seen, history in pairs)

    def _connection(self) -> Any:
        if self._redis is None:
            raise RuntimeError("the reader was not started")
        return self._redis

    async def _newest(self, stream: int) -> EntryId:
        return _id_of_first(await self._connection().xrevrange(STREAMS[stream], count=1))

    async def _oldest(self, stream: int) -> EntryId:
        return _id_of_first(await self._connection().xrange(STREAMS[stream], count=1))

    async def _read(self) -> None:
        pause_s = 0.0
        while True:
            try:
                await self._find_place()
                pause_s = 0.0
                while True:
                    await self._read_batch()
            except (RedisError, OSError) as error:
                self._lose(f"{type(error).__name__}: {error}")
                pause_s = min(max(0.1, pause_s * 2), _LONGEST_PAUSE_S)
                await asyncio.sleep(pause_s)

    def _lose(self, reason: str) -> None:
        if not self.is_away:
            log.warning("live_streams_lost", reason=reason)
            self.is_away = True
            self._moved.set()
            self._on_notice(Away(reason="live updates cannot be read for now"))

    async def _find_place(self) -> None:
        """Load what the streams hold the first time; after an outage go on where the reader left off."""
        lost: dict[str, str] = {}
        if self.position is None:
            await self._load()
        else:
            for stream, name in enumerate(STREAM_NAMES):
                reason = await self._find_place_in(stream)
                if reason is not None:
                    lost[name] = reason
        if self.is_away:
            log.info("live_streams_found_again")
            self.is_away = False
            self._on_notice(Back())
        if lost:
            reason = next(iter(lost.values()))
            self._on_notice(Gap(reason=reason, streams=tuple(lost), position=self._here()))

    async def _load(self) -> None:
        loaded: list[tuple[EntryId, int, bytes]] = []
        wholes: list[bool] = []
        newest = list(START.entries)
        for stream in range(len(STREAMS)):
            entries, wholeness = await self._load_stream(stream)
            wholes.append(wholeness)
            loaded += [(EntryId.parse(key.decode()), stream, _data(fields)) for key, fields in entries]
        loaded.sort(key=lambda one: one[:2])
        by_stream: list[list[Update]] = [[] for _ in STREAMS]
        position = START
        for entry, stream, data in loaded:
            position = position.moved(stream, entry)
            newest[stream] = entry
            by_stream[stream].append(self._build(stream, entry, data, position))
        for stream, history in enumerate(self.histories):
            history.load(by_stream[stream], newest[stream], is_whole=wholes[stream])
        self._read_up_to = newest
        self.position = position
        self._moved.set()
        self._on_updates([])

    async def _load_stream(self, stream: int) -> tuple[list[_Entry], bool]:
        """The latest entries, oldest first; and whether the stream never held another."""
        entries: list[_Entry] = await self._connection().xrevrange(
            STREAMS[stream], count=self._history_length
        )
        entries.reverse()
        try:
            info = await self._connection().xinfo_stream(STREAMS[stream])
        except ResponseError:  # there is no such stream yet
            return entries, not entries
        return entries, int(info["entries-added"]) == len(entries)

    async def _find_place_in(self, stream: int) -> str | None:
        """Where to go on after an outage; the reason when entries were lost meanwhile."""
        seen, newest = self._read_up_to[stream], await self._newest(stream)
        if newest < seen:
            self._read_up_to[stream] = BEGINNING
            self._lose_history(stream, seen)
            return "the stream was started anew"
        oldest = await self._oldest(stream)
        if seen != BEGINNING and oldest > seen:
            self._lose_history(stream, before(oldest))
            return "updates were trimmed while the stream could not be read"
        return None

    def _lose_history(self, stream: int, up_to: EntryId) -> None:
        self.histories[stream].lose(up_to)
        self.position = self._here().moved(stream, self.histories[stream].newest)

    async def _read_batch(self) -> None:
        places = dict(zip(STREAMS, map(str, self._read_up_to), strict=True))
        answer: list[tuple[bytes, list[_Entry]]] = await self._connection().xread(
            places, count=_BATCH, block=_BLOCK_MS
        )
        found: list[tuple[EntryId, int, bytes]] = []
        for name, entries in answer:
            stream = STREAMS.index(name.decode())
            if len(entries) == _BATCH and self._read_up_to[stream] != BEGINNING:
                await self._check_for_trimming(stream, _id_of_first(entries))
            found += [(EntryId.parse(key.decode()), stream, _data(fields)) for key, fields in entries]
        if not found:
            return
        found.sort(key=lambda one: one[:2])
        self._on_updates([self._pass(*one) for one in found])
        self._moved.set()
        if self.pace is not None:
            await self.pace()

    def _pass(self, entry: EntryId, stream: int, data: bytes) -> Update:
        self._read_up_to[stream] = entry
        self.position = self._here().moved(stream, entry)
        update = self._build(stream, entry, data, self.position)
        self.histories[stream].add(update)
        return update

    def _build(self, stream: int, entry: EntryId, data: bytes, position: Position) -> Update:
        self._n_read += 1
        return build_update(self._n_read, stream, entry, data, position)

    async def _check_for_trimming(self, stream: int, first_read: EntryId) -> None:
        """A reader this far behind may have been overtaken: it then reads the oldest entry there is."""
        if await self._oldest(stream) >= first_read:
            self._lose_history(stream, before(first_read))
            reason = "updates were trimmed before they could be read"
            self._on_notice(Gap(reason=reason, streams=(STREAM_NAMES[stream],), position=self._here()))

    def _here(self) -> Position:
        return self.position or START


def _id_of_first(entries: list[_Entry]) -> EntryId:
    return EntryId.parse(entries[0][0].decode()) if entries else BEGINNING


def _data(fields: dict[bytes, bytes]) -> bytes:
    return fields.get(DATA_FIELD.encode(), b"null")

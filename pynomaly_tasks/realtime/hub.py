"""Gives each update to every client that wants it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pynomaly_tasks.errors import Unavailable
from pynomaly_tasks.realtime.filters import Filter, FilterIndex
from pynomaly_tasks.realtime.position import Position
from pynomaly_tasks.realtime.reader import StreamReader
from pynomaly_tasks.realtime.streams import BEGINNING, STREAM_NAMES, STREAMS
from pynomaly_tasks.realtime.update import Away, Back, Encoder, Gap, Update
from pynomaly_tasks.realtime.watcher import Watcher

_CATCH_UP_S = 0.1


class TooManyClients(Unavailable):
    """As many clients watch through this process as it is allowed to serve."""


class StreamHub:
    """One reader of the live streams, and a `Watcher` for each client.

    Start and stop it with the process, inside its event loop. Everything it does with a client is
    done between two awaits, so that a client misses nothing and sees nothing twice.
    """

    def __init__(
        self, url: str, *, max_waiting: int = 1_000, max_clients: int = 1_000, history_length: int = 1_000
    ) -> None:
        self._max_waiting = max_waiting
        self._max_clients = max_clients
        self._watchers: set[Watcher] = set()
        self._index: FilterIndex[Watcher] = FilterIndex()
        self._reader = StreamReader(
            url, on_updates=self._deliver, on_notice=self._notify, history_length=history_length
        )
        self._reader.pace = self._let_clients_catch_up

    @property
    def n_clients(self) -> int:
        """Clients that are watching now."""
        return len(self._watchers)

    @property
    def position(self) -> Position | None:
        """How far the streams are read; None before they were found."""
        return self._reader.position

    def latest(self, streams: Iterable[str], n_updates: int) -> list[Update]:
        """The last updates of these streams, oldest first."""
        held = [
            update
            for stream in streams
            for update in self._reader.histories[STREAMS.index(stream)].after(BEGINNING)[-n_updates:]
        ]
        return sorted(held, key=lambda update: update.number)[-n_updates:]

    async def start(self) -> None:
        """Begin to read. Redis may be down: the reader waits for it."""
        await self._reader.start()

    async def stop(self) -> None:
        """End every client's updates, and the reader."""
        for watcher in self._watchers:
            watcher.close()
        await self._reader.stop()

    async def is_reachable(self, timeout_s: float = 2.0) -> bool:
        """Whether Redis answers within the time."""
        return await self._reader.is_reachable(timeout_s)

    def check_room(self) -> None:
        """Raises TooManyClients when no other client can be served."""
        if len(self._watchers) >= self._max_clients:
            raise TooManyClients(f"{self._max_clients} clients are watching already; try again in a while")

    @contextmanager
    def watching(self, encode: Encoder, write: Callable[[bytes], bool] | None = None) -> Iterator[Watcher]:
        """A client, which is told nothing until it has a filter. Raises TooManyClients."""
        self.check_room()
        watcher = Watcher(encode, write, max_waiting=self._max_waiting)
        self._watchers.add(watcher)
        if self._reader.is_away:
            watcher.tell(Away(reason="live updates cannot be read for now"))
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            self.remove_filters(watcher, list(watcher.filters))

    def add_filters(self, watcher: Watcher, filters: list[Filter]) -> None:
        """From now on the client is told what passes any of these too."""
        for which in filters:
            self._index.add(watcher, which)
        watcher.filters += filters

    def remove_filters(self, watcher: Watcher, filters: list[Filter]) -> None:
        """Take these back."""
        for which in filters:
            self._index.remove(watcher, which)
            watcher.filters.remove(which)

    async def catch_up(self, position: Position) -> None:
        """Wait a moment until this process has read what a client says to have seen, from another one."""
        await self._reader.catch_up(position)

    def resume(self, watcher: Watcher, filters: list[Filter], after: Position) -> None:
        """As `add_filters`, and what the client missed since then comes first; a Gap where that is not all held."""
        if self._reader.position is None:
            watcher.resumes_from = after
        else:
            self._replay(watcher, filters, after)
        self.add_filters(watcher, filters)

    def _replay(self, watcher: Watcher, filters: list[Filter], after: Position) -> None:
        gap, missed = self._reader.missed(after)
        if gap is not None:
            watcher.replay([gap])
        watcher.replay([update for update in missed if any(which.passes(update) for which in filters)])

    def _deliver(self, updates: list[Update]) -> None:
        """To those who want them. An empty list: the streams were just found for the first time."""
        if not updates:
            self._place_early_clients()
            return
        wanted: dict[Watcher, list[Update]] = {}
        for update in updates:
            for watcher in self._index.owners_of(update):
                kept = wanted.get(watcher)
                if kept is None:
                    wanted[watcher] = [update]
                else:
                    kept.append(update)
        for watcher, its in wanted.items():
            watcher.offer(its)

    def _place_early_clients(self) -> None:
        """Clients that came before Redis could be read."""
        for watcher in self._watchers:
            after, watcher.resumes_from = watcher.resumes_from, None
            if after is not None:
                self._replay(watcher, watcher.filters, after)
            elif self._reader.is_away and watcher.filters:
                reason = "the streams could not be read until now"
                watcher.tell(Gap(reason=reason, streams=STREAM_NAMES, position=self.position))

    def _notify(self, notice: Away | Back | Gap) -> None:
        for watcher in self._watchers:
            watcher.tell(notice)

    async def _let_clients_catch_up(self) -> None:
        """In a burst, wait for the clients before the next batch; but one that is slow never holds up the rest."""
        end = time.monotonic() + _CATCH_UP_S
        while time.monotonic() < end and any(watcher.is_slow for watcher in self._watchers):
            await asyncio.sleep(_CATCH_UP_S / 20)

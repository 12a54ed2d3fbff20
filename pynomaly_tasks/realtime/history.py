"""What one stream still holds, kept by its reader, so that a client that comes back costs Redis nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from pynomaly_tasks.realtime.streams import BEGINNING, EntryId
from pynomaly_tasks.realtime.update import Update

_LARGEST = 2**64 - 1


class History:
    """The latest entries of one stream, oldest first, and since when it is complete."""

    def __init__(self, max_entries: int) -> None:
        self._updates: deque[Update] = deque()
        self._max_entries = max_entries
        self.complete_after = BEGINNING  #: every entry later than this one is here
        self._is_whole = True  #: ... and there were none before its first

    @property
    def newest(self) -> EntryId:
        """The last entry that was read, or is known to be gone."""
        last = self._updates[-1].entry if self._updates else BEGINNING
        return max(last, self.complete_after)

    def load(self, updates: Iterable[Update], newest: EntryId, *, is_whole: bool) -> None:
        """Take what the stream holds at the start; ``is_whole`` when it never held more."""
        self._updates = deque(updates, self._max_entries)
        self.complete_after = before(self._updates[0].entry) if self._updates else newest
        self._is_whole = is_whole

    def add(self, update: Update) -> None:
        """One entry more; the oldest goes when there are too many."""
        if update.entry <= self.complete_after:
            self.complete_after = BEGINNING  # a stream begun anew on a clock that was set back
        if len(self._updates) >= self._max_entries:
            self.complete_after = self._updates.popleft().entry
            self._is_whole = False
        self._updates.append(update)

    def lose(self, up_to: EntryId) -> None:
        """Entries up to this one can no longer be had."""
        self.complete_after = max(up_to, self.newest)
        self._updates.clear()
        self._is_whole = False

    def reaches_back_to(self, seen: EntryId) -> bool:
        """Whether nothing later than this entry is missing here."""
        return seen >= self.complete_after or (self._is_whole and seen == BEGINNING)

    def after(self, seen: EntryId) -> list[Update]:
        """The entries later than this one, in order."""
        found: list[Update] = []
        for update in reversed(self._updates):
            if update.entry <= seen:
                break
            found.append(update)
        found.reverse()
        return found


def before(entry: EntryId) -> EntryId:
    """The id just before this one."""
    return EntryId(entry.at_ms, entry.number - 1) if entry.number else EntryId(entry.at_ms - 1, _LARGEST)

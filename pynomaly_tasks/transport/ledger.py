"""What this process holds of a broker's messages: kept, acknowledged, given back."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic

import redis

from pynomaly_tasks.transport import scripts

log = logging.getLogger(__name__)

#: Begins every tag of ours. kombu's own are UUIDs.
MARK = "~"
#: An acknowledgement waits for company, but only where there was another one so shortly before. Twice
#: as long makes it cheaper by 1 % of a worker's CPU, and repeats twice as many tasks that had just ended
#: when their worker was killed.
FLUSH_EVERY_S = 0.02
#: Messages that go back wait for the others that their owner drops, so that they go in their order.
BACKS_TOGETHER_S = 0.05
#: Three renewals may fail before another worker takes the message.
RENEWALS_PER_LEASE = 4
#: After a failure, the next try.
RETRY_AFTER_S = 1.0
_CHUNK = 1_000  #: tags in one step
_COLLECT_AFTER_S = (1.0, 5.0, 20.0, 60.0, 300.0)

#: To be taken next, or after all others.
NEXT, LAST = "RPUSH", "LPUSH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Names in Redis, with their prefix."""

    unacked: str
    index: str
    pulse: str


class Ledger:
    """The messages that one transport took and has not settled.

    A message is held from the step that took it until it is acknowledged, rejected, or dropped: the
    last reference to its `Message` is gone and nobody settled it, so nobody will. What is held is
    renewed, by a thread with a connection of its own, whatever became of the channel it came by; so
    a broken connection gives nothing back that still runs. A forked child changes nothing here.
    """

    def __init__(
        self, client: redis.Redis, keys: Keys, *, lease_s: float, is_consuming: Callable[[], bool]
    ) -> None:
        self.client = client
        self.keys = keys
        self.lease_s = lease_s
        self.prefix = f"{MARK}{secrets.token_hex(8)}:"
        self._is_consuming = is_consuming
        self.n_dropped = 0  #: messages that are gone although nobody settled them
        self._pid = os.getpid()
        self._number = 1
        self._held: dict[str, None] = {}
        self._acks: deque[str] = deque()
        self._backs: deque[str] = deque()
        self._orphans: set[str] = set()
        self._collects: deque[float] = deque()
        self._lock = threading.RLock()
        self._signal: SimpleQueue[None] = SimpleQueue()  # its put may be called while it is being put to
        self._signalled = False
        self._thread: threading.Thread | None = None
        _ledgers.add(self)

    # ---- taking

    def numbers(self, count: int) -> int:
        """The first of ``count`` numbers for tags that nobody had."""
        with self._lock:
            first = self._number
            self._number += count
            return first

    def tag(self, number: int, list_key: str) -> str:
        """As reserve.lua makes it; it sorts as the messages were taken and says where it came from."""
        return f"{self.prefix}{number:012d}:{list_key}"

    def hold(self, tags: Iterable[str]) -> None:
        """Renew these until they are settled or dropped."""
        self._held.update(dict.fromkeys(tags))
        self.start()

    def holds(self, tag: str) -> bool:
        """Whether it is neither settled nor dropped."""
        return tag in self._held

    # ---- settling: from any thread, the garbage collector's too, so without a lock

    def acknowledge(self, tag: str) -> None:
        """Forget the message, within `FLUSH_EVERY_S`."""
        if os.getpid() == self._pid:
            self._acks.append(tag)
            self._held.pop(tag, None)
            self._notify()
            self.start()

    def give_back(self, tag: str) -> None:
        """Put the message back into its list, to be taken next, soon."""
        if os.getpid() == self._pid:
            self._return(tag)
            self.start()

    def requeue(self, tag: str) -> None:
        """Put the message behind all others of its list, now. Raises redis errors; it stays held then."""
        if os.getpid() == self._pid:
            scripts.GIVE_BACK.run(self.client, [self.keys.unacked, self.keys.index], [LAST, tag])
            self._held.pop(tag, None)

    def dropped(self, tag: str) -> None:
        """Nobody can settle it any more: give it back, unless it is settled."""
        if tag in self._held and os.getpid() == self._pid:
            self._return(tag)
            self.n_dropped += 1

    def _return(self, tag: str) -> None:
        # In this order: the thread lives while something is held or waits.
        self._backs.append(tag)
        self._held.pop(tag, None)
        self._notify()

    def read(self, tag: str) -> bytes | None:
        """The record of a message that this process holds. Raises redis errors."""
        if os.getpid() != self._pid:
            return None
        record: bytes | None = self.client.hget(self.keys.unacked, tag)  # type: ignore[assignment]
        return record

    def bury(self, tag: str, dead_key: str, letter: bytes) -> None:
        """Move a message to the dead letters. Raises redis errors."""
        scripts.BURY.run(self.client, [self.keys.unacked, self.keys.index, dead_key], [tag, letter])
        self._held.pop(tag, None)

    def take_acknowledgements(self, limit: int) -> list[str]:
        """Some that wait, for a step that takes them along; hand them back if it fails."""
        taken: list[str] = []
        while len(taken) < limit:
            try:
                taken.append(self._acks.popleft())
            except IndexError:
                break
        return taken

    def flush(self) -> None:
        """Send all that waits. Raises redis errors; what was not sent waits on."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self.flush_acknowledgements()
            self._send_backs()

    def flush_acknowledgements(self) -> None:
        """Send those that wait. Raises redis errors; what was not sent waits on."""
        with self._lock:
            while tags := self.take_acknowledgements(_CHUNK):
                try:
                    scripts.SETTLE.run(self.client, [self.keys.unacked, self.keys.index], tags)
                except BaseException:
                    self._acks.extendleft(tags)
                    raise

    def _send_backs(self) -> None:
        waiting: list[str] = []
        while self._backs:
            waiting.append(self._backs.popleft())
        # The last taken goes back first, so that the first taken is next again.
        tags = sorted(waiting, reverse=True)
        try:
            for start in range(0, len(tags), _CHUNK):
                scripts.GIVE_BACK.run(
                    self.client, [self.keys.unacked, self.keys.index], [NEXT, *tags[start : start + _CHUNK]]
                )
        except BaseException:
            self._backs.extendleft(waiting)
            raise

    # ---- keeping

    def renew(self) -> list[str]:
        """Renew what is held; returns what was lost, given back by others who thought us dead."""
        lost: list[str] = []
        tags = list(self._held)
        for start in range(0, len(tags), _CHUNK):
            gone = scripts.RENEW.run(
                self.client, [self.keys.unacked, self.keys.index], tags[start : start + _CHUNK]
            )
            lost += [tag.decode() if isinstance(tag, bytes) else tag for tag in gone]
        # One that was settled since is not lost.
        lost = [tag for tag in lost if self._held.pop(tag, "settled") is None]
        if lost:
            self.n_dropped += len(lost)
            log.warning(
                "%d messages were given to others: this process could not renew them for %g s; "
                "their tasks may run twice",
                len(lost),
                self.lease_s,
            )
        return lost

    def keep(self) -> None:
        """Renew what is held and, where something consumes, give back what dead consumers held."""
        renewed_at = self.server_time()
        self.renew()
        if self._is_consuming():
            self.give_back_expired(renewed_at)

    def server_time(self) -> float:
        """Of the server's clock, s."""
        seconds, microseconds = self.client.time()
        return float(seconds + microseconds / 1e6)

    def give_back_expired(self, renewed_at: float | None = None) -> int:
        """Give back what dead consumers held; returns how many.

        ``renewed_at``: since when, by the server's clock, this process has renewed what it holds. Where
        that is long ago, because it stood still just now, nothing is given back: it would be its own.
        """
        n_returned, n_kept = 0, 0
        if renewed_at is None:
            renewed_at = self.server_time()
        while True:
            n_seen, n_given = scripts.GIVE_BACK_EXPIRED.run(
                self.client,
                [self.keys.unacked, self.keys.index, self.keys.pulse],
                [self.lease_s, self.lease_s / 2, MARK, _CHUNK // 10, n_kept, f"{renewed_at:.6f}"],
            )
            if n_seen < 0:
                return 0
            n_returned += int(n_given)
            n_kept += int(n_seen - n_given)
            if n_seen < _CHUNK // 10:
                break
        if n_returned:
            log.warning("gave back %d messages of workers that are gone", n_returned)
        return n_returned

    def disconnect(self) -> None:
        """Close the connections that nobody uses just now; what comes later opens another."""
        self.client.connection_pool.disconnect(inuse_connections=False)

    def channel_closed(self, tags: Iterable[str]) -> None:
        """Find out soon which of these messages are still used by somebody."""
        self._orphans.update(tag for tag in tags if tag in self._held)
        if self._orphans:
            self._collects = deque(monotonic() + after_s for after_s in _COLLECT_AFTER_S)
            self._notify()

    def end(self) -> None:
        """The process ends: give back all that is held. What cannot be sent comes back by its lease."""
        if os.getpid() != self._pid:
            return
        for tag in list(self._held):
            self._return(tag)
        try:
            self.flush()
        except (redis.RedisError, OSError) as error:
            log.warning("could not tell the broker what is settled: %r", error)

    # ---- the thread

    def _notify(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._signal.put(None)

    def start(self) -> None:
        """Start the thread; it ends when nobody consumes and nothing is held."""
        if self._thread is None or not self._thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        every_s = self.lease_s / RENEWALS_PER_LEASE
        renew_at = flush_at = monotonic()
        while self._is_consuming() or self._held or self._acks or self._backs:
            wait_s = min([renew_at, *list(self._collects)[:1]]) - monotonic()
            try:
                self._signal.get(timeout=max(wait_s, 0.001))
            except Empty:
                pass
            else:
                threading.Event().wait(max(flush_at - monotonic(), 0.0))
                self._signalled = False
                step = self.flush_acknowledgements
                if self._backs:
                    threading.Event().wait(BACKS_TOGETHER_S)
                    step = self.flush
                if not self._tried(step):
                    threading.Event().wait(RETRY_AFTER_S)
                    self._notify()
                flush_at = monotonic() + FLUSH_EVERY_S
            self._collect()
            if monotonic() >= renew_at:
                done = self._tried(self.keep)
                renew_at = monotonic() + (every_s if done else min(RETRY_AFTER_S, every_s))
        self._tried(self.disconnect)

    def _tried(self, step: Callable[[], object]) -> bool:
        try:
            step()
        except (redis.RedisError, OSError) as error:
            log.warning("%s failed, will be tried again: %r", step.__name__, error)
            return False
        return True

    def _collect(self) -> None:
        # Celery's requests form cycles, which only the collector finds; without it, messages that a
        # worker dropped when its connection broke would be held for as long as it is idle.
        if self._collects and monotonic() >= self._collects[0]:
            self._collects.popleft()
            gc.collect()
            self._orphans = {tag for tag in self._orphans if tag in self._held}
            if not self._orphans:
                self._collects.clear()


_ledgers: weakref.WeakSet[Ledger] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for ledger in list(_ledgers):
        ledger.end()

"""What a broker must do for us. Everything else is done once, above it.

A backend keeps *channels*: named places that entries are put into and taken from under a lease. A
queue is one channel, a subscriber is one, the dead letters of a queue are one. It also keeps the
*catalog*, a few small records that every process sees: the queues, their options, who subscribed
to what. It knows nothing of topics, payloads, retries or guarantees: `QueueManager` does those.

How brokers that work in other ways fit:

- One that acknowledges an offset and not a message (Kafka) settles in order behind the first held
  entry, gives back by putting the entry into the channel again and settling it (``n_deliveries``
  travels in the entry's head), and says ``ack: emulated``.
- One with a visibility timeout (SQS, Pub/Sub) has it as the lease: `extend` and `give_back` change it.
- One with dead letters of its own (RabbitMQ, SQS) maps ``Settlement.then`` to a confirmed publish
  before the acknowledgement: a crash between the two makes a second copy, never a loss. A backend
  that does both in one step is what Redis and memory are.
- One without a place for records (RabbitMQ, MQTT) keeps the catalog in a retained message or a
  stream of its own; its ``catalog_version`` is checked at intervals and not with each send.
- What it cannot do it declares absent in its `Capabilities`; it never does less without a word.

Errors of client libraries become BrokerUnavailable inside the backend, with a timeout on each call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol, runtime_checkable

from pynomaly_tasks.errors import PynomalyError
from pynomaly_tasks.messaging.capabilities import Capabilities


class CatalogStale(PynomalyError):
    """The catalog is newer than the one that was acted on; nothing was done. Read it and try again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is put into a channel: bytes, and what the broker must know of them."""

    channel: str
    message_id: str
    body: bytes
    priority: int = 0  #: 0 to 255, higher first
    delay_s: float = 0.0
    ttl_s: float | None = None  #: from now, also while it is delayed
    deduplication_key: str = ""  #: empty: it is sent whatever was sent before
    deduplication_s: float = 0.0
    max_size: int | None = None  #: of the channel; an entry more is refused


class Put(Enum):
    """What became of an entry."""

    DONE = "done"
    DUPLICATE = "duplicate"  #: its key is within the window; nothing was put
    FULL = "full"  #: the channel is at its max_size; nothing was put, no key was noted


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An entry that is ours until the lease ends."""

    channel: str
    key: str  #: the broker's name for the entry
    fence: str  #: changes with each delivery, so that an old holder cannot settle
    message_id: str
    body: bytes
    priority: int
    n_deliveries: int  #: 1 the first time
    is_expired: bool  #: by the broker's clock; it must not be handed on


class Outcome(Enum):
    """How a held entry ended; each is counted."""

    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"  #: given up
    EXPIRED = "expired"
    DROPPED = "dropped"  #: to make room


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A member of a small set that outlives the entry: which subscribers acknowledged a message."""

    key: str
    member: str
    keep_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The end of a held entry, and what must happen in the same step."""

    held: Held
    outcome: Outcome
    then: Sequence[Entry] = ()  #: put whatever their channels' sizes
    note: Note | None = None
    handled_s: float = 0.0  #: how long the handler took


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An entry that lies in a channel, looked at without taking it."""

    key: str
    message_id: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A channel, counted by the broker: over all processes, since the channel was made."""

    #: Not yet settled: waiting, delayed and held. It and the next three are None where ``depth`` is absent.
    depth: int | None = 0
    in_flight: int | None = 0  #: held under a lease that has not ended
    delayed: int | None = 0
    oldest_age_s: float | None = 0.0  #: of what is not settled and not delayed
    sent: int = 0
    delivered: int = 0  #: handings, so a message that comes twice counts twice
    acknowledged: int = 0
    failed: int = 0
    expired: int = 0
    dropped: int = 0
    requeued: int = 0  #: given back to be tried again
    purged: int = 0
    handled_s: float = 0.0  #: of all that was acknowledged, together


@dataclass(frozen=True, slots=True)
class Catalog:
    """The records at one version."""

    version: int = 0
    records: Mapping[str, bytes] = field(default_factory=dict)


class Backend(Protocol):
    """One broker. Every method but `open` and `close` raises MessagingClosed when it is not open."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect. Raises BrokerUnavailable within the connect timeout."""

    async def close(self) -> None:
        """Give the connections back. What is held stays held until its lease ends."""

    async def ping(self) -> None:
        """Raise BrokerUnavailable unless the broker answers."""

    async def read_catalog(self) -> Catalog:
        """All records."""

    async def declare(self, name: str, record: bytes) -> bytes:
        """Keep the record unless there is one by that name; return the one that stands."""

    async def forget(self, name: str) -> bool:
        """Drop a record; whether there was one."""

    async def put(self, entries: Sequence[Entry], *, catalog_version: int) -> list[Put]:
        """Put the entries in order, all or none reaching the broker. Raises CatalogStale."""

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
        """Up to ``max_entries`` in order; waits for the first one. ``lowest``: the worst priority first.

        Raises CatalogStale.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """End them; False where another consumer holds the entry or has settled it: nothing was done there."""

    async def give_back(self, held: Held, *, delay_s: float, counted: bool) -> bool:
        """Hand it out again after ``delay_s``, in its old place; as `settle` when it is not ours.

        ``counted`` False: as if it had never been handed out.
        """

    async def extend(self, held: Sequence[Held], *, lease_s: float) -> list[bool]:
        """Let the leases end ``lease_s`` from now; False where it is not ours any more."""

    async def purge(self, channel: str) -> int:
        """Remove what waits or is delayed, not what is held; how many."""

    async def erase(self, channel: str) -> None:
        """Remove the channel and everything of it."""

    async def measure(self, channel: str) -> Measure:
        """Count it."""

    async def browse(self, channel: str, *, after: str, limit: int) -> list[Stored]:
        """Entries of priority 0 in order, from the one after the key ``after`` on (empty: the first)."""

    async def find(self, channel: str, key: str) -> Stored | None:
        """One entry of priority 0 by its key; None for a key that is none."""

    async def remove(self, channel: str, key: str, *, then: Sequence[Entry] = ()) -> bool:
        """Remove one entry that nobody holds and put ``then``, in one step; whether it was there."""

    async def read_notes(self, key: str) -> frozenset[str]:
        """The members noted under the key."""


@runtime_checkable
class Replays(Protocol):
    """A `Backend` whose capability replay is not absent."""

    def read_back(self, channel: str, *, since: datetime | int) -> AsyncIterator[Stored]:
        """What was put there from a time or an offset on, up to now, and is settled; each message once."""

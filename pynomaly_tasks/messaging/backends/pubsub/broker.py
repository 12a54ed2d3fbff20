"""Queues on Google Cloud Pub/Sub: a lane is a topic with one subscription, which all consumers pull from.

| capability | how |
|---|---|
| ack, groups | native: a pull takes what nobody holds; the lease is the acknowledgement deadline |
| handings | counted by Pub/Sub, for which the subscription has a dead-letter topic; after 100 Pub/Sub itself puts there what kept coming back |
| order | absent; with ``?ordering=true`` an ordering key for each lane: in order, but nobody gets more while one holds some |
| persistence | native: 31 days |
| dead_letters | emulated: a lane of their own; listed by receiving them for a moment |
| purge | emulated: received and acknowledged |
| priority, delay, ttl, deduplication | emulated, as its page says |
| catalog | topics whose labels are the records: making one is refused when it is there |
| depth | absent: Pub/Sub does not say how many wait; and with it max_size |
| confirmations, replay | absent |

An acknowledgement of what is not ours any more is answered as any other, so a lease that ended is told by this
process's own clock, which it began before Pub/Sub began its own. Leases are whole seconds on the server, rounded up,
and 600 s at most.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from google.api_core.exceptions import AlreadyExists

from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.backend import Catalog, Note
from pynomaly_tasks.messaging.backends import abilities
from pynomaly_tasks.messaging.backends.pubsub.catalog import PubSubCatalog
from pynomaly_tasks.messaging.backends.pubsub.connection import PubSubConnection
from pynomaly_tasks.messaging.backends.pubsub.settling import LONGEST_LEASE_S, Lease, Settling
from pynomaly_tasks.messaging.plain_broker import Item, LaneCount, LaneGone, Lying, Taken, Traits

_KEEP_S = 31 * 86_400
_EMULATOR_KEEP_S = 7 * 86_400  #: and it knows no more
#: How long a message is ours before it is asked to be so for the lease.
_FIRST_LEASE_S = 10
_MOST_HANDINGS = 100
_OVERRUN = "overrun"
_MOST_PULLED = 1_000
_MOST_LISTED = 10_000
_LOOK_LEASE_S = 30.0
#: Between two looks, growing while there is nothing.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25
_CLOSE_S = 2.0
#: Of one publish; Pub/Sub takes 1,000 messages and 10 MB.
_MOST_SENT, _MOST_SENT_BYTES = 1_000, 8_000_000
_MAX_ITEM_BYTES = 9_000_000


class PubSubBroker:
    """One process on Pub/Sub. ``url``: pubsub://project, with Google's default credentials."""

    name = "pubsub"
    capabilities = abilities.PUBSUB
    traits = Traits(max_item_bytes=_MAX_ITEM_BYTES)

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "pynomaly:messaging",
        connect_timeout_s: float = 2.0,
        timeout_s: float = 10.0,
    ) -> None:
        """Nothing is connected yet. ``timeout_s``: an unanswered call fails after it."""
        self._connection = PubSubConnection(url, namespace, connect_timeout_s, timeout_s)
        self._catalog = PubSubCatalog(self._connection)
        self._giving_back: set[asyncio.Task[None]] = set()
        self._settling = Settling(self._connection)

    async def open(self) -> None:
        """Connect."""
        self._settling = Settling(self._connection)
        await self._connection.open()

    async def close(self) -> None:
        """What is held comes again when its lease ends."""
        if self._giving_back:
            await asyncio.wait(list(self._giving_back), timeout=_CLOSE_S)
        await self._settling.flush()
        await self._connection.close()

    async def ping(self) -> None:
        """List one topic."""
        connection = self._connection
        with self._connection.mapped_errors():
            await connection.publisher.list_topics(
                request={"project": connection.project, "page_size": 1},
                timeout=connection.timeout_s, retry=None,
            )  # fmt: skip

    async def read_catalog(self) -> Catalog:
        """All records."""
        return await self._catalog.read()

    async def declare(self, name: str, record: bytes) -> bytes:
        """Keep the record, or return the one that stands."""
        return await self._catalog.declare(name, record)

    async def forget(self, name: str) -> bool:
        """Drop a record."""
        return await self._catalog.forget(name)

    async def make_lane(self, lane: str) -> None:
        """Its topic, then its subscription: nobody sends before both are there."""
        connection = self._connection
        await self._make_topic(connection.topic(f"lane.{lane}"))
        keep_s = _KEEP_S if connection.address.endpoint is None else _EMULATOR_KEEP_S
        request: dict[str, Any] = {
            "name": connection.subscription(f"lane.{lane}"),
            "topic": connection.topic(f"lane.{lane}"),
            "ack_deadline_seconds": _FIRST_LEASE_S,
            "message_retention_duration": {"seconds": keep_s},
            "expiration_policy": {},
            "enable_message_ordering": connection.address.is_ordered,
        }
        if not _is_for_people(lane):
            overrun = connection.topic(_OVERRUN)
            await self._make_topic(overrun)
            await self._make_subscription(
                {
                    "name": connection.subscription(_OVERRUN),
                    "topic": overrun,
                    "message_retention_duration": {"seconds": keep_s},
                    "expiration_policy": {},
                }
            )
            request["dead_letter_policy"] = {
                "dead_letter_topic": overrun,
                "max_delivery_attempts": _MOST_HANDINGS,
            }
        await self._make_subscription(request)

    async def _make_topic(self, name: str) -> None:
        with self._connection.mapped_errors(), suppress(AlreadyExists):
            await self._connection.publisher.create_topic(
                request={"name": name}, timeout=self._connection.timeout_s, retry=None
            )

    async def _make_subscription(self, request: dict[str, Any]) -> None:
        with self._connection.mapped_errors(), suppress(AlreadyExists):
            await self._connection.subscriber.create_subscription(
                request=request, timeout=self._connection.timeout_s, retry=None
            )

    async def erase_lane(self, lane: str) -> None:
        """The topic, so that nothing more comes, then the subscription."""
        connection = self._connection
        with suppress(LaneGone), self._connection.mapped_errors():
            await connection.publisher.delete_topic(
                request={"topic": connection.topic(f"lane.{lane}")}, timeout=connection.timeout_s, retry=None
            )
        with suppress(LaneGone), self._connection.mapped_errors():
            await connection.subscriber.delete_subscription(
                request={"subscription": self._name(lane)}, timeout=connection.timeout_s, retry=None
            )

    async def append(self, items: Sequence[Item]) -> None:
        """Publish those of one lane that follow each other together."""
        batch: list[Item] = []
        n_bytes = 0
        for item in items:
            n_bytes += len(item.data)
            is_full = len(batch) == _MOST_SENT or n_bytes > _MOST_SENT_BYTES
            if batch and (is_full or batch[-1].lane != item.lane):
                await self._publish(batch)
                batch, n_bytes = [], len(item.data)
            batch.append(item)
        if batch:
            await self._publish(batch)

    async def _publish(self, items: Sequence[Item]) -> None:
        connection, lane = self._connection, items[0].lane
        key = "lane" if connection.address.is_ordered else ""
        # Pub/Sub refuses a message without data and attributes.
        messages = [{"data": item.data, "ordering_key": key, "attributes": {"v": "1"}} for item in items]
        with self._connection.mapped_errors():
            await connection.publisher.publish(
                request={"topic": connection.topic(f"lane.{lane}"), "messages": messages},
                timeout=connection.timeout_s, retry=None,
            )  # fmt: skip

    async def take(
        self, lanes: Sequence[str], *, max_items: int, lease_s: float, wait_s: float
    ) -> list[Taken]:
        """Look into each lane in turn, and again after a pause.

        Not by pulls that wait: what one is given at the moment that it gives up waiting is held for nobody.
        """
        end = time.monotonic() + wait_s
        pause_s = _FIRST_PAUSE_S
        while True:
            found: list[Taken] = []
            for lane in lanes:
                found += await self._take(lane, max_items - len(found), lease_s)
                if len(found) == max_items:
                    break
            left_s = end - time.monotonic()
            if found or left_s <= 0:
                return found
            await asyncio.sleep(min(left_s, pause_s))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    async def _take(self, lane: str, n: int, lease_s: float) -> list[Taken]:
        taking = asyncio.ensure_future(self._pull(lane, n, lease_s))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # A pull that is broken off may have been given something, which nobody would get for a while.
            giving_back = asyncio.ensure_future(self._give_back(taking))
            self._giving_back.add(giving_back)
            giving_back.add_done_callback(self._giving_back.discard)
            raise

    async def _give_back(self, taking: asyncio.Future[list[Taken]]) -> None:
        with suppress(BrokerUnavailable, LaneGone, MessagingClosed):
            for each in await taking:
                await self.release(each)

    async def _pull(self, lane: str, n: int, lease_s: float) -> list[Taken]:
        connection, subscription = self._connection, self._name(lane)
        request = {
            "subscription": subscription,
            "max_messages": min(n, _MOST_PULLED),
            "return_immediately": True,
        }
        with self._connection.mapped_errors(), warnings.catch_warnings():
            # Discouraged, as it may find nothing where there is something: so we look again.
            warnings.simplefilter("ignore", DeprecationWarning)
            answer = await connection.subscriber.pull(
                request=request, timeout=connection.timeout_s, retry=None
            )
        until = time.monotonic() + min(lease_s, LONGEST_LEASE_S)
        # As they are: the client's own classes around them cost more than all the rest.
        received = type(answer).pb(answer).received_messages
        await self._settling.set_deadline(subscription, [each.ack_id for each in received], lease_s)
        return [
            Taken(
                lane=lane,
                token=Lease(subscription, _key(each.message), each.ack_id, until),
                data=each.message.data,
                n_earlier=max(0, each.delivery_attempt - 1),
            )
            for each in received
        ]

    async def acknowledge(self, taken: Sequence[Taken]) -> list[bool]:
        """Where the lease has not ended."""
        return await self._settling.acknowledge([_lease(each) for each in taken])

    async def release(self, taken: Taken) -> bool:
        """Hand it out again now; Pub/Sub counts it as handed out."""
        return await self._settling.release(_lease(taken))

    async def extend(self, taken: Sequence[Taken], *, lease_s: float) -> list[bool]:
        """Let the leases end ``lease_s`` from now, 600 s at most."""
        return await self._settling.extend([_lease(each) for each in taken], lease_s)

    async def purge(self, lane: str) -> int:
        """Receive and acknowledge until there is nothing."""
        n = 0
        while received := await self._pull(lane, _MOST_PULLED, _FIRST_LEASE_S):
            n += sum(await self.acknowledge(received))
        return n

    async def count(self, lane: str) -> LaneCount | None:
        """Only of what is listed for people: of the others Pub/Sub does not say it."""
        if not _is_for_people(lane):
            return None
        return LaneCount(waiting=len(await self._look(lane)))

    async def browse(self, lane: str, *, after: str, limit: int) -> list[Lying]:
        """In order of their times, which the keys begin with."""
        return [each for each in await self._look(lane) if each.key > after][:limit]

    async def find(self, lane: str, key: str) -> Lying | None:
        """One that nobody holds."""
        return next((each for each in await self._look(lane) if each.key == key), None)

    async def remove(self, lane: str, key: str) -> bool:
        """One that nobody holds."""
        return any(each.key == key for each in await self._look(lane, remove=key))

    async def _look(self, lane: str, *, remove: str = "") -> list[Lying]:
        """All that nobody holds, received for a moment; the one with the key ``remove`` is acknowledged."""
        seen: dict[str, Taken] = {}
        try:
            while len(seen) < _MOST_LISTED:
                received = await self._pull(lane, _MOST_PULLED, _LOOK_LEASE_S)
                if not received:
                    break
                seen.update((_lease(each).key, each) for each in received)
            if remove in seen:
                await self.acknowledge([seen[remove]])
        finally:
            ack_ids = [_lease(each).ack_id for key, each in seen.items() if key != remove]
            await self._settling.set_deadline(self._name(lane), ack_ids, 0.0)
        return [Lying(key=key, data=seen[key].data) for key in sorted(seen)]

    async def add_note(self, note: Note) -> None:
        """Never asked for: confirmations are absent."""
        raise NotImplementedError(note.key)

    async def read_notes(self, key: str) -> frozenset[str]:
        """There are none: confirmations are absent."""
        return frozenset()

    def _name(self, lane: str) -> str:
        return self._connection.subscription(f"lane.{lane}")


def _is_for_people(lane: str) -> bool:
    """Dead letters: they are looked at, and being looked at must not count as having been handed out."""
    return lane.endswith("!dead") or lane.startswith("!")


def _key(message: Any) -> str:
    at = message.publish_time
    return f"{at.seconds * 1_000_000 + at.nanos // 1_000:020}-{message.message_id:0>20}"


def _lease(taken: Taken) -> Lease:
    assert isinstance(taken.token, Lease)
    return taken.token

"""Queues on Amazon SQS: ``sqs://REGION``, one queue of the service for each lane.

| capability | how |
|---|---|
| ack, groups | native: the visibility timeout is the lease, in whole seconds, rounded up; at most 12 hours together |
| deliveries counted | native: ApproximateReceiveCount |
| order | absent: a standard queue keeps it nearly. ``?fifo=true`` makes FIFO queues: strict order, and as long as one batch is held nobody gets the next, so consumers take turns |
| delay | native up to 15 minutes at a time, repeated for longer ones; emulated with ``fifo=true``, whose queues have none |
| deduplication | emulated; the service's own (FIFO, five minutes) does not tell that it dropped something. Each message of a FIFO queue has a name of its own, so that no request puts one twice |
| priority, ttl, max_size | emulated; the count that max_size goes by is the service's, which may be a minute old |
| dead_letters | emulated: a queue of their own. The service's redrive policy is not used: it knows no reason, and moves what was only given back |
| depth | native, and up to a minute old; the age of the oldest is 0, as the service does not tell it |
| purge | emulated: what waits is received and deleted, because the service's own takes what is held as well, and a minute |
| confirmations, replay | absent |
| persistence | native, for 14 days: after that the service drops messages, dead letters too |
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pynomaly_tasks.messaging.backend import Catalog, Note
from pynomaly_tasks.messaging.backends.abilities import SQS
from pynomaly_tasks.messaging.backends.sqs.browsing import SqsBrowser
from pynomaly_tasks.messaging.backends.sqs.catalog import SqsCatalog
from pynomaly_tasks.messaging.backends.sqs.connection import SqsAddress, SqsConnection
from pynomaly_tasks.messaging.backends.sqs.items import (
    MAX_ITEM_BYTES,
    MAX_MESSAGE_BYTES,
    data_of,
    n_earlier_of,
    new_name,
    to_message,
)
from pynomaly_tasks.messaging.backends.sqs.lanes import SqsLanes, queue_prefix
from pynomaly_tasks.messaging.backends.sqs.settling import Settling, Token
from pynomaly_tasks.messaging.capabilities import Support
from pynomaly_tasks.messaging.plain_broker import Item, LaneCount, Lying, Taken, Traits

_LONGEST_DELAY_S = 900.0
_LONGEST_LEASE_S = 43_200
_LONGEST_POLL_S = 20
_BATCH = 10
#: Between looks where a wait is shorter than a second, which is the least that SQS waits.
_SHORT_PAUSE_S = 0.1
#: How long an answer may have been on its way.
_LATENCY_S = 0.25


class SqsBroker:
    """One client of one region, and one namespace."""

    name = "sqs"
    capabilities = SQS
    traits = Traits(longest_delay_s=_LONGEST_DELAY_S, release_keeps_place=True, max_item_bytes=MAX_ITEM_BYTES)

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "pynomaly:messaging",
        connect_timeout_s: float = 2.0,
        timeout_s: float = 10.0,
    ) -> None:
        """Nothing is connected yet. Raises InvalidSettings for an address that is none."""
        address = SqsAddress.read(url)
        self._is_fifo = address.fifo
        if self._is_fifo:
            self.capabilities = replace(SQS, order=Support.NATIVE)
            self.traits = replace(self.traits, longest_delay_s=0.0)
        self._namespace = namespace
        self._connection = SqsConnection(address, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s)
        self._know_nothing()
        self._cleaning: set[asyncio.Task[None]] = set()

    def _know_nothing(self) -> None:
        prefix = queue_prefix(self._namespace)
        self._catalog = SqsCatalog(self._connection, f"{prefix}catalog.fifo")
        self._lanes = SqsLanes(self._connection, self._catalog, prefix)
        self._browser = SqsBrowser(self._connection)
        self._settling = Settling(self._connection)

    async def open(self) -> None:
        """One request."""
        self._know_nothing()
        await self._connection.open()
        try:
            await self._catalog.open()
        except BaseException:
            await self._connection.close()
            raise

    async def close(self) -> None:
        """What is held comes again when its lease ends."""
        if self._cleaning:
            await asyncio.wait(list(self._cleaning))
        await self._settling.flush()
        await self._connection.close()

    async def ping(self) -> None:
        """One request."""
        await self._connection.call("list_queues", MaxResults=1)

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
        """See `lanes`."""
        await self._lanes.make(lane)

    async def erase_lane(self, lane: str) -> None:
        """Delete the queue."""
        self._browser.forget(self._lanes.forget(lane))
        await self._lanes.erase(lane)

    async def append(self, items: Sequence[Item]) -> None:
        """In batches of what SQS takes at once, one after the other."""
        by_lane: dict[str, list[Item]] = {}
        for item in items:
            by_lane.setdefault(item.lane, []).append(item)
        await asyncio.gather(*(self._append(lane, each) for lane, each in by_lane.items()))

    async def _append(self, lane: str, items: Sequence[Item]) -> None:
        batch: list[dict[str, Any]] = []
        n_bytes = 0
        with self._lanes.url(lane) as url:
            self._browser.forget(url)
            for item in items:
                entry, size = to_message(item.data)
                entry |= self._group(lane)
                if item.delay_s >= 1:
                    entry["DelaySeconds"] = int(item.delay_s)
                if batch and (len(batch) == _BATCH or n_bytes + size > MAX_MESSAGE_BYTES):
                    await self._connection.batch("send_message_batch", url, batch)
                    batch, n_bytes = [], 0
                batch.append(entry)
                n_bytes += size
            await self._connection.batch("send_message_batch", url, batch)

    def _group(self, lane: str) -> dict[str, str]:
        """One group for all of a lane keeps their order; dead letters are looked at, and need none."""
        if not self._is_fifo:
            return {}
        name = new_name()
        return {
            "MessageGroupId": name if lane.endswith(("!dead", "!unrouted")) else "all",
            "MessageDeduplicationId": name,
        }

    async def take(
        self, lanes: Sequence[str], *, max_items: int, lease_s: float, wait_s: float
    ) -> list[Taken]:
        """One lane is waited for by the service; several are, at the same time, and all answers are waited for."""
        end = time.monotonic() + wait_s
        while True:
            left_s = end - time.monotonic()
            poll_s = _seconds_to_poll(left_s) if len(lanes) == 1 else 0
            taken: list[Taken] = []
            for lane in lanes:
                while n := min(_BATCH, max_items - len(taken)):
                    found = await self._receive(lane, n, lease_s, 0 if taken else poll_s)
                    if not found:
                        break
                    taken += found
            if taken or (left_s := end - time.monotonic()) <= 0:
                return taken
            if len(lanes) > 1 and _seconds_to_poll(left_s):
                # Nothing is better than the best lane's, so nothing needs to be put back but what is too much.
                found = await self._first_of(lanes, lease_s)
                if found:
                    return found
            else:
                await asyncio.sleep(min(_SHORT_PAUSE_S, left_s))

    async def _first_of(self, lanes: Sequence[str], lease_s: float) -> list[Taken]:
        """One item, from the best lane that has one within a second."""
        answers = await asyncio.gather(*(self._receive(lane, 1, lease_s, 1) for lane in lanes))
        found = [taken for answer in answers for taken in answer]
        for taken in found[1:]:
            await self._put_back(taken)
        return found[:1]

    async def _receive(self, lane: str, n: int, lease_s: float, poll_s: int) -> list[Taken]:
        """Whoever is cancelled while it waits leaves what comes to others."""
        asking = asyncio.create_task(self._ask(lane, n, lease_s, poll_s))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            cleaning = asyncio.create_task(self._put_back_later(asking))
            self._cleaning.add(cleaning)
            cleaning.add_done_callback(self._cleaning.discard)
            raise

    async def _ask(self, lane: str, n: int, lease_s: float, poll_s: int) -> list[Taken]:
        started = time.monotonic()
        with self._lanes.url(lane) as url:
            answer = await self._connection.call(
                "receive_message",
                wait_s=float(poll_s),
                QueueUrl=url,
                MaxNumberOfMessages=n,
                VisibilityTimeout=_whole(lease_s),
                WaitTimeSeconds=poll_s,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
            )
        # The service began to count before the answer was here.
        began = started if poll_s == 0 else time.monotonic() - _LATENCY_S
        until = began + _whole(lease_s)
        return [self._taken(lane, url, message, until) for message in answer.get("Messages", ())]

    def _taken(self, lane: str, url: str, message: Mapping[str, Any], until: float) -> Taken:
        token = Token(url, message["MessageId"], message["ReceiptHandle"])
        self._settling.leases.begin(token, until)
        return Taken(lane=lane, token=token, data=data_of(message), n_earlier=n_earlier_of(message))

    async def _put_back_later(self, asking: asyncio.Task[list[Taken]]) -> None:
        await asyncio.wait([asking])
        if asking.exception() is None:
            for taken in asking.result():
                await self._put_back(taken)

    async def _put_back(self, taken: Taken) -> None:
        """As if it had never been handed out: a copy that remembers how often it was. In a FIFO queue, in its place."""
        if self._is_fifo:
            await self.release(taken)
            return
        entry, _ = to_message(taken.data, n_earlier=taken.n_earlier)
        with self._lanes.url(taken.lane) as url:
            await self._connection.batch("send_message_batch", url, [entry])
        await self.acknowledge([taken])

    async def acknowledge(self, taken: Sequence[Taken]) -> list[bool]:
        """Delete them."""
        return await self._settling.delete([self._token(each) for each in taken])

    async def release(self, taken: Taken) -> bool:
        """Visible at once."""
        return await self._settling.show(self._token(taken))

    async def extend(self, taken: Sequence[Taken], *, lease_s: float) -> list[bool]:
        """Visible later."""
        return await self._settling.hide([self._token(each) for each in taken], _whole(lease_s))

    async def purge(self, lane: str) -> int:
        """Receive and delete."""
        n = 0
        with self._lanes.url(lane) as url:
            self._browser.forget(url)
        while taken := await self._receive(lane, _BATCH, 30.0, 0):
            n += sum(await self.acknowledge(taken))
        return n

    async def count(self, lane: str) -> LaneCount:
        """As the service knows it."""
        name = "ApproximateNumberOfMessages"
        names = [name, f"{name}NotVisible", f"{name}Delayed"]
        with self._lanes.url(lane) as url:
            answer = await self._connection.call("get_queue_attributes", QueueUrl=url, AttributeNames=names)
        waiting, held, delayed = (int(answer["Attributes"][each]) for each in names)
        return LaneCount(waiting=waiting, held=held, delayed=delayed)

    async def browse(self, lane: str, *, after: str, limit: int) -> list[Lying]:
        """As they were sent; see `browsing`."""
        with self._lanes.url(lane) as url:
            seen = await self._browser.look(url)
        return [each.lying for key, each in seen.items() if key > after][:limit]

    async def find(self, lane: str, key: str) -> Lying | None:
        """By its key."""
        with self._lanes.url(lane) as url:
            seen = (await self._browser.look(url)).get(key)
        return None if seen is None else seen.lying

    async def remove(self, lane: str, key: str) -> bool:
        """By the receipt of when it was looked at."""
        with self._lanes.url(lane) as url:
            return await self._browser.remove(url, key)

    async def add_note(self, note: Note) -> None:
        """Never called: confirmations are absent."""
        raise NotImplementedError("SQS keeps no confirmations")

    async def read_notes(self, key: str) -> frozenset[str]:
        """None are kept."""
        self._connection.check_open()
        return frozenset()

    def _token(self, taken: Taken) -> Token:
        assert isinstance(taken.token, Token)
        return taken.token


def _seconds_to_poll(left_s: float) -> int:
    """The service waits whole seconds; to come a little late is better than to ask ten times instead."""
    return max(0, min(int(left_s + 0.3), _LONGEST_POLL_S))


def _whole(lease_s: float) -> int:
    return max(1, min(math.ceil(lease_s), _LONGEST_LEASE_S))

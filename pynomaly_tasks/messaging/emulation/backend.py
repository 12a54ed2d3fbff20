"""A `Backend` of any `PlainBroker`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from pynomaly_tasks.errors import InvalidMessage, MessagingClosed, NotSupported, Unavailable
from pynomaly_tasks.messaging.backend import (
    Catalog,
    Entry,
    Held,
    Measure,
    Put,
    Settlement,
    Stored,
)
from pynomaly_tasks.messaging.dead_letters import dead_entry
from pynomaly_tasks.messaging.emulation.appending import Appender
from pynomaly_tasks.messaging.emulation.catalog import FRESH_S, CatalogCache
from pynomaly_tasks.messaging.emulation.counting import Tally
from pynomaly_tasks.messaging.emulation.delays import Movers
from pynomaly_tasks.messaging.emulation.head import read_head
from pynomaly_tasks.messaging.emulation.history import read_back
from pynomaly_tasks.messaging.emulation.in_hand import Hands, InHand
from pynomaly_tasks.messaging.emulation.lanes import LaneBook, lanes_of, split_lane
from pynomaly_tasks.messaging.emulation.windows import Windows
from pynomaly_tasks.messaging.plain_broker import KeepsSettled, Lying, PlainBroker, Taken, TakesLowest
from pynomaly_tasks.messaging.topology import queue_of_dead
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)


class EmulatedBackend:
    """What the package's own page says, over one broker."""

    def __init__(self, broker: PlainBroker) -> None:
        self.name = broker.name
        self.capabilities = broker.capabilities
        self.traits = broker.traits
        self._broker = broker
        self._is_open = False

    async def open(self) -> None:
        """Connect, and begin with nothing known."""
        self._catalog = CatalogCache(self._broker)
        self._lanes = LaneBook(self._broker, self._catalog)
        self._tally = Tally(self._broker)
        self._appender = Appender(self._broker, self._lanes, self._tally)
        self._movers = Movers(self._broker, self._delay_lanes, self._appender.move, self._lanes.forget)
        self._windows = Windows()
        self._hands = Hands()
        await self._broker.open()
        self._is_open = True

    async def close(self) -> None:
        """Give the connections back."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            for taken in await self._movers.stop():
                await self._broker.release(taken)
        except Unavailable as error:
            log.warning("delayed_messages_not_released", error=str(error))
        finally:
            await self._broker.close()

    async def ping(self) -> None:
        """As the broker's."""
        self._check_open()
        await self._broker.ping()

    async def read_catalog(self) -> Catalog:
        """As the broker's, now."""
        self._check_open()
        return await self._catalog.read()

    async def declare(self, name: str, record: bytes) -> bytes:
        """As the broker's."""
        self._check_open()
        return await self._catalog.declare(name, record)

    async def forget(self, name: str) -> bool:
        """As the broker's."""
        self._check_open()
        return await self._catalog.forget(name)

    async def put(self, entries: Sequence[Entry], *, catalog_version: int) -> list[Put]:
        """Put what is no duplicate and finds room."""
        self._check_open()
        self._check_sizes(entries)
        await self._catalog.check(catalog_version)
        puts = [Put.DONE] * len(entries)
        claimed: list[int] = []
        sent: set[int] = set()
        try:
            await self._claim(entries, puts, claimed)
            await self._find_room(entries, puts)
            chosen = [n for n, put in enumerate(puts) if put is Put.DONE]
            await self._appender.append([entries[n] for n in chosen], catalog_version)
            sent.update(chosen)
        finally:
            for n in claimed:
                entry = entries[n]
                if n in sent:
                    self._windows.keep(entry.channel, entry.deduplication_key, entry.deduplication_s)
                else:
                    self._windows.drop(entry.channel, entry.deduplication_key)
        return puts

    def _check_sizes(self, entries: Sequence[Entry]) -> None:
        limit = self.traits.max_item_bytes
        for entry in entries:
            if limit is not None and len(entry.body) > limit:
                raise InvalidMessage.of(
                    "payload",
                    f"makes a message of {len(entry.body):,} bytes, and {self.name} takes {limit:,}: keep the data "
                    "in a file or a database and send where it lies, or have payloads compressed",
                )

    async def _claim(self, entries: Sequence[Entry], puts: list[Put], claimed: list[int]) -> None:
        """Mark the duplicates; note in ``claimed`` the numbers of the others that have a key."""
        seen: set[tuple[str, str]] = set()
        keyed = [n for n, entry in enumerate(entries) if entry.deduplication_key]
        # In one order for all senders, so that no two wait for one another.
        for n in sorted(keyed, key=lambda n: (entries[n].channel, entries[n].deduplication_key, n)):
            entry = entries[n]
            mark = (entry.channel, entry.deduplication_key)
            if mark in seen or not await self._windows.claim(*mark):
                puts[n] = Put.DUPLICATE
            else:
                claimed.append(n)
            seen.add(mark)

    async def _find_room(self, entries: Sequence[Entry], puts: list[Put]) -> None:
        """Mark what finds none."""
        depths: dict[str, int] = {}
        for n, entry in enumerate(entries):
            if entry.max_size is None or puts[n] is not Put.DONE:
                continue
            if entry.channel not in depths:
                depths[entry.channel] = (await self.measure(entry.channel)).depth or 0
            if depths[entry.channel] >= entry.max_size:
                puts[n] = Put.FULL
            else:
                depths[entry.channel] += 1

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
        """Up to ``max_entries`` in order; looks at the catalog again every second."""
        end = time.monotonic() + wait_s
        while True:
            self._check_open()
            lanes = lanes_of(channel, await self._catalog.check(catalog_version))
            if lanes.delay:
                self._movers.want(channel)
            main = lanes.lowest_first() if lowest else lanes.main
            slice_s = max(0.0, min(end - time.monotonic(), FRESH_S))

            async def take(main: Sequence[str] = main, slice_s: float = slice_s) -> list[Taken]:
                if lowest and isinstance(self._broker, TakesLowest):
                    return await self._broker.take_lowest(channel, max_items=max_entries, lease_s=lease_s)
                return await self._broker.take(main, max_items=max_entries, lease_s=lease_s, wait_s=slice_s)

            taken = await self._lanes.use(main, take, catalog_version)
            held = self._hold(channel, taken, lease_s)
            if held or time.monotonic() >= end:
                return held

    def _hold(self, channel: str, taken: Sequence[Taken], lease_s: float) -> list[Held]:
        now, held = time.time(), []
        for each in taken:
            head, body = read_head(each.data)
            fence = self._hands.add(channel, each, head, lease_s)
            is_expired = 0.0 < head.expires_at <= now
            self._tally.add(channel, "delivered", not is_expired)
            held.append(
                Held(
                    channel=channel,
                    key=fence,
                    fence=fence,
                    message_id=head.message_id,
                    body=body,
                    priority=head.priority,
                    n_deliveries=head.n_deliveries + each.n_earlier + 1,
                    is_expired=is_expired,
                )
            )
        return held

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """What follows is appended first; then the acknowledgement."""
        self._check_open()
        answers = [self._hands.find(each.held) is not None for each in settlements]
        await self._settle_first_what_follows(settlements, answers)
        ours = [n for n, is_ours in enumerate(answers) if is_ours]
        found = [self._hands.find(settlements[n].held) for n in ours]
        acknowledged = await self._broker.acknowledge([each.taken for each in found if each is not None])
        for n, is_ours in zip(ours, acknowledged, strict=True):
            answers[n] = is_ours
            self._hands.drop(settlements[n].held)
            if is_ours:
                self._tally.settled(settlements[n])
        return answers

    async def _settle_first_what_follows(
        self, settlements: Sequence[Settlement], answers: list[bool]
    ) -> None:
        """Append it for those that are ours; asked before, so that a lost lease leaves no second copy."""
        following = [n for n, each in enumerate(settlements) if answers[n] and (each.then or each.note)]
        found = [self._hands.find(settlements[n].held) for n in following]
        if not following:
            return
        still = await self._confirm([each for each in found if each is not None])
        for n, is_ours in zip(following, still, strict=True):
            answers[n] = is_ours
            if not is_ours:
                self._hands.drop(settlements[n].held)
        await self._appender.append([entry for n in following if answers[n] for entry in settlements[n].then])
        for n in following:
            note = settlements[n].note
            if answers[n] and note is not None:
                await self._broker.add_note(note)

    async def give_back(self, held: Held, *, delay_s: float, counted: bool) -> bool:
        """Released where the broker then does what is asked; else appended in front, and acknowledged."""
        self._check_open()
        found = self._hands.find(held)
        if found is None:
            return False
        traits = self.traits
        if delay_s <= 0 and traits.release_keeps_place and traits.release_counts == counted:
            is_ours = await self._broker.release(found.taken)
        else:
            (is_ours,) = await self._confirm([found])
            if is_ours:
                now = time.time()
                head = replace(
                    found.head,
                    n_deliveries=held.n_deliveries - (not counted),
                    is_front=True,
                    due_at=now + delay_s if delay_s > 0 else 0.0,
                )
                await self._appender.move(held.channel, [(head, held.body)])
                (is_ours,) = await self._broker.acknowledge([found.taken])
        self._hands.drop(held)
        if is_ours and counted:
            self._tally.add(held.channel, "requeued")
        return is_ours

    async def _confirm(self, found: Sequence[InHand]) -> list[bool]:
        """Whether each is still ours, and will be until what follows is appended."""
        now = time.monotonic()
        lease_s = max(_A_MOMENT_S, *(each.lease_until - now for each in found))
        return await self._broker.extend([each.taken for each in found], lease_s=lease_s)

    async def extend(self, held: Sequence[Held], *, lease_s: float) -> list[bool]:
        """As the broker's."""
        self._check_open()
        found = [self._hands.find(each) for each in held]
        known = [each for each in found if each is not None]
        answers = iter(
            await self._broker.extend([each.taken for each in known], lease_s=lease_s) if known else []
        )
        result = [each is not None and next(answers) for each in found]
        self._hands.extended([each for each, is_ours in zip(held, result, strict=True) if is_ours], lease_s)
        return result

    async def purge(self, channel: str) -> int:
        """Every lane's."""
        self._check_open()
        lanes = lanes_of(channel, await self._catalog.read())
        moving = await self._movers.stop(channel)
        n = sum(await self._broker.acknowledge(moving)) if moving else 0
        for lane in lanes.all:
            n += await self._lanes.use([lane], partial(self._purge, lane))
        self._tally.add(channel, "purged", n)
        return n

    async def _purge(self, lane: str) -> int:
        if not self.traits.longest_delay_s or not split_lane(lane)[1].startswith("d"):
            return await self._broker.purge(lane)
        # What the broker delays cannot be taken out of the lane; it is made anew when it is needed.
        count = await self._broker.count(lane)
        await self._broker.erase_lane(lane)
        self._lanes.forget(split_lane(lane)[0])
        return 0 if count is None else count.waiting + count.held + count.delayed

    async def erase(self, channel: str) -> None:
        """Its lanes, and what this process knows of it."""
        self._check_open()
        await self._movers.stop(channel)
        await self._lanes.erase(channel)
        self._windows.forget(channel)
        self._hands.forget(channel)
        self._tally.forget(channel)

    async def measure(self, channel: str) -> Measure:
        """What lies there as the broker says; what happened as this process counted."""
        self._check_open()
        lanes = lanes_of(channel, await self._catalog.recent())
        return await self._lanes.use(lanes.all, lambda: self._tally.measure(channel, lanes))

    async def browse(self, channel: str, *, after: str, limit: int) -> list[Stored]:
        """Of the channel's first lane."""
        self._check_open()
        found = await self._lanes.use(
            [channel], lambda: self._broker.browse(channel, after=after, limit=limit)
        )
        return [_stored(channel, each) for each in found]

    async def find(self, channel: str, key: str) -> Stored | None:
        """Of the channel's first lane."""
        self._check_open()
        found = await self._lanes.use([channel], lambda: self._broker.find(channel, key))
        return None if found is None else _stored(channel, found)

    async def remove(self, channel: str, key: str, *, then: Sequence[Entry] = ()) -> bool:
        """What follows is appended first: a crash between leaves a copy, never a loss."""
        self._check_open()
        if then and await self._lanes.use([channel], lambda: self._broker.find(channel, key)) is None:
            return False
        await self._appender.append(then)
        was_there = await self._lanes.use([channel], lambda: self._broker.remove(channel, key))
        self._tally.add(channel, "purged", was_there)
        return was_there

    async def read_back(self, channel: str, *, since: datetime | int) -> AsyncIterator[Stored]:
        """Of all its lanes, where the broker keeps what is settled."""
        self._check_open()
        if not isinstance(self._broker, KeepsSettled):
            raise NotSupported.of("since", f"the backend {self.name} has no replay")
        lanes = lanes_of(channel, await self._catalog.read())
        first = [channel, *(lane for lane in lanes.all if lane != channel)]
        await self._lanes.make(first)
        async for stored in read_back(self._broker, first, since):
            yield stored

    async def read_notes(self, key: str) -> frozenset[str]:
        """As the broker's."""
        self._check_open()
        return await self._broker.read_notes(key)

    async def _delay_lanes(self, channel: str) -> Sequence[str]:
        lanes = lanes_of(channel, await self._catalog.recent()).delay
        await self._lanes.make(lanes)
        return lanes

    def _check_open(self) -> None:
        if not self._is_open:
            raise MessagingClosed(
                f"the {self.name} backend is not open; use it in `async with`, or call open()"
            )


#: Long enough for what follows to be appended before the lease ends.
_A_MOMENT_S = 30.0


def _stored(channel: str, lying: Lying) -> Stored:
    head, body = read_head(lying.data)
    if (drop := lying.drop) is not None:
        body = dead_entry(
            queue=queue_of_dead(channel), topic="", reason=drop.reason, error=drop.why, dead_at=drop.at,
            message_id=head.message_id, n_attempts=head.n_deliveries, priority=head.priority, raw=body,
        ).body  # fmt: skip
    return Stored(key=lying.key, message_id=head.message_id, body=body)

"""How one process takes part: its main connection, the lanes it hosts, and what it asks of other hosts."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.backends.mqtt.address import Address
from pynomaly_tasks.messaging.backends.mqtt.catalog import View
from pynomaly_tasks.messaging.backends.mqtt.host import METHODS, Answer, Host, HostLost
from pynomaly_tasks.messaging.backends.mqtt.link import NO_MATCHING_SUBSCRIBERS, Arrival, Link
from pynomaly_tasks.messaging.backends.mqtt.wire import Topics, last_name, pack, unpack
from pynomaly_tasks.messaging.plain_broker import LaneGone

#: A question that waits is answered after at most this long, so that a host that is lost is noticed.
LONGEST_ASK_S = 2.0
#: That much later than it should the answer counts as missing.
_GRACE_S = 2.0
_TRIES = 30


class _HostGone(Exception):
    """Nobody answers for the lane."""


class Switchboard:
    """Connected as long as it is used; it makes its connections again when they were lost."""

    def __init__(self, address: Address, topics: Topics, connect_timeout_s: float, timeout_s: float) -> None:
        self.topics = topics
        self.me = uuid.uuid4().hex
        self.view = View()  #: the catalog
        self.known: set[str] = set()  #: lanes that there are
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._is_open = True
        self._main: Link | None = None
        self._linking: Link | None = None
        self._connecting = asyncio.Lock()
        self._hosts: dict[str, Host] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asked: dict[str, asyncio.Future[Answer]] = {}
        self._starting: dict[str, asyncio.Future[None]] = {}
        self._background_tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Leave what this process hosts to the others."""
        self._is_open = False
        for task in [*self._background_tasks, *self._starting.values()]:
            task.cancel()
        self._fail_asked()
        for host in list(self._hosts.values()):
            await host.stop()
        self._hosts.clear()
        main, self._main = self._main, None
        if main is not None and main.is_up:
            with suppress(BrokerUnavailable):
                await main.answer(main.send(self.topics.gone, b"", qos=1))
            await main.disconnect()

    async def catch_up(self) -> None:
        """Return when all that was retained before has arrived."""
        link = await self.connected()  # first: it may begin another view
        await self.view.catch_up(link, self.topics.answers(self.me), self._timeout_s)

    def lock(self, what: str) -> asyncio.Lock:
        """One task of this process at a time makes a lane, or takes its session."""
        return self._locks[what]

    async def leave(self, lane: str) -> None:
        """Host it no more."""
        if (host := self._hosts.pop(lane, None)) is not None:
            await host.stop()

    async def call(self, lane: str, do: str, *arguments: Any) -> Answer:
        """Have the lane's host do it: this process, another, or this one from now on."""
        was_tried = False
        for n in range(_TRIES):
            await self.connected()
            host = self._hosts.get(lane)
            try:
                line: Any
                if host is not None and host.is_up:
                    line, blobs = await METHODS[do](host, *arguments)
                else:
                    line, blobs = await self._ask(lane, do, arguments)
            except HostLost:
                was_tried = True
                await self._pause(n)
            except _HostGone:
                await self._pause(n)
                await self._host(lane)
            except BrokerUnavailable:
                if host is None or host.is_up:
                    raise
                was_tried = True  # taken in the middle of it
            else:
                if do == "settle" and was_tried:
                    # What is not there was done when it was first tried; what is there is somebody else's now.
                    line = [is_ours is not False for is_ours in line]
                return line, blobs
        raise BrokerUnavailable(
            f"the processes that host {lane} changed {_TRIES} times during one call; try again"
        )

    async def _ask(self, lane: str, do: str, arguments: Sequence[Any]) -> Answer:
        link = await self.connected()
        number = uuid.uuid4().hex
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            code = await link.answer(
                link.send(self.topics.asks(lane), pack([number, self.me, lane, do, arguments]), qos=1)
            )
            if code == NO_MATCHING_SUBSCRIBERS:
                raise _HostGone
            async with asyncio.timeout(LONGEST_ASK_S + _GRACE_S):
                answer: Answer = await future
                return answer
        except TimeoutError:
            raise _HostGone from None  # alive perhaps, and of no use: its session is taken from it
        finally:
            del self._asked[number]

    async def _pause(self, n_tries: int) -> None:
        """Spread those that contend for one lane."""
        if n_tries:
            await asyncio.sleep(random.uniform(0.0, 0.02 * n_tries))

    async def _host(self, lane: str) -> None:
        """Take the lane's session, unless another task does."""
        starting = self._starting.get(lane)
        if starting is None:
            starting = self._starting[lane] = asyncio.ensure_future(self._start_hosting(lane))
            starting.add_done_callback(lambda done: self._started(lane, done))
        # Whoever waits may be cancelled: it goes on for the others. Closing ends it, and then they hear so.
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.result()

    def _started(self, lane: str, done: asyncio.Future[None]) -> None:
        del self._starting[lane]
        if not done.cancelled():
            done.exception()  # seen: where nobody waits any more, that is fine

    async def _start_hosting(self, lane: str) -> None:
        async with self.lock(lane):
            host = self._hosts.get(lane)
            if host is not None and host.is_up:
                return
            main = await self.connected()
            if lane not in self.known:
                raise LaneGone(lane)
            host = Host(lane, self.topics, self._address.window, self._timeout_s)
            link = self.lane_link(lane, host.arrived)
            # First: whoever asks while we read what lies there waits for us, and does not take the session.
            await main.listen(self.topics.asks(lane))
            try:
                await host.start(link)
            except BaseException as error:
                await host.stop()
                if isinstance(error, BrokerUnavailable) and main.is_up:
                    await main.unlisten(self.topics.asks(lane))
                    return  # another process took the session meanwhile
                raise
            if not self._is_open:
                await host.stop()
                return
            self._hosts[lane] = host
            link.lost.add_done_callback(lambda _: self._stop_hosting(lane, host))

    def _stop_hosting(self, lane: str, host: Host) -> None:
        if self._hosts.get(lane) is host:
            del self._hosts[lane]
        if self._is_open and self._main is not None and self._main.is_up:
            self._background(self._stop_listening(lane, self._main))

    async def _stop_listening(self, lane: str, main: Link) -> None:
        with suppress(BrokerUnavailable):
            async with self.lock(lane):
                if lane not in self._hosts:
                    await main.unlisten(self.topics.asks(lane))

    async def _answer(self, lane: str, number: str, to: str, do: str, arguments: Sequence[Any]) -> None:
        """What another process asked this one as the host."""
        async with self.lock(lane):
            host = self._hosts.get(lane)
        with suppress(BrokerUnavailable):
            link = await self.connected()
            try:
                if host is None:
                    raise HostLost
                line, blobs = await METHODS[do](host, *arguments)
                answer = pack([number, "done", line, lane, do], blobs)
            except HostLost:
                # Then nobody is told so a second time.
                await self._stop_listening(lane, link)
                answer = pack([number, "lost", None, lane, do])
            await link.answer(link.send(self.topics.answers(to), answer, qos=1))

    def _answered(self, data: bytes) -> None:
        """The answer of a host to this process."""
        (number, how, line, lane, do), blobs = unpack(data)
        asked = self._asked.get(number)
        if asked is None or asked.done():
            # Of a question that was given up. What it took waits again.
            for key, fence, _ in line if do == "take" and how == "done" else ():
                self._background(self._put_back(lane, key, fence))
            return
        if how == "done":
            asked.set_result((line, blobs))
        else:
            asked.set_exception(HostLost("another process hosts the lane now"))

    async def connected(self) -> Link:
        """The main connection, made again when it was lost."""
        self.check_open()
        if self._main is not None and self._main.is_up:
            return self._main
        async with self._connecting:
            if self._main is not None and self._main.is_up:
                return self._main
            for host in list(self._hosts.values()):
                await host.stop()
            self._hosts.clear()
            self.known, self.view = set(), View()
            link = self.plain_link(
                f"{self.topics.namespace}/process/{self.me}", self._arrived, says_when_gone=True
            )
            await link.connect()
            self._linking = link
            me = self.topics.answers(self.me)
            try:
                for topic in (me, self.topics.gone, self.topics.known("+"), self.topics.records):
                    await link.listen(topic)
                await self.view.catch_up(link, me, self._timeout_s)
            except BaseException:
                await link.disconnect()
                raise
            self.check_open()
            link.lost.add_done_callback(lambda _: self._fail_asked())
            self._main = link
            return link

    def _fail_asked(self) -> None:
        """Whoever was to answer may be gone: ask again."""
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(HostLost("the host may be gone"))
                asked.exception()  # seen: where nobody waits any more, that is fine

    def _arrived(self, message: Arrival) -> None:
        """A message on the main connection."""
        topic, payload = message.topic, message.payload
        kind = topic[len(self.topics.namespace) + 1 :].partition("/")[0]
        if kind == "to":
            if len(payload) == 16:
                self.view.marked(payload)
            else:
                with suppress(ValueError):
                    self._answered(payload)
        elif kind == "ask":
            with suppress(ValueError):
                (number, to, lane, do, arguments), _ = unpack(payload)
                self._background(self._answer(lane, number, to, do, arguments))
        elif kind == "record":
            self.view.changed(topic, payload)
        elif kind == "known":
            (self.known.add if payload else self.known.discard)(last_name(topic))
        elif kind == "gone":
            self._fail_asked()
        if message.qos and self._linking is not None:
            self._linking.acknowledge(message.mid)

    async def _put_back(self, lane: str, key: str, fence: str) -> None:
        with suppress(BrokerUnavailable, LaneGone, MessagingClosed):
            await self.call(lane, "release", key, fence)

    def _background(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)

    async def read_retained(self, topic: str) -> list[str]:
        """The last names under it, over a connection of its own."""
        found = View()
        me = self.topics.answers(f"reader-{uuid.uuid4().hex}")
        own: list[Link] = []

        def on_message(message: Arrival) -> None:
            if message.topic == me:
                found.marked(message.payload)
            else:
                found.changed(message.topic, message.payload)
            own[0].acknowledge(message.mid)

        link = self.plain_link(f"{self.topics.namespace}/reader/{uuid.uuid4().hex}", on_message)
        own.append(link)
        await link.connect()
        try:
            await link.listen(me)
            await link.listen(topic)
            await found.catch_up(link, me, self._timeout_s)
        finally:
            await link.disconnect()
        return list(found.records)

    def session_id(self, lane: str) -> str:
        """The client id that a lane's session belongs to."""
        return f"{self.topics.namespace}/lane/{lane}"

    def lane_link(self, lane: str, on_message: Callable[[Arrival], None]) -> Link:
        """A connection, not made yet, that takes a lane's session."""
        return self.link(self.session_id(lane), on_message, keeps_session=True, clean_start=False)

    def plain_link(
        self, identifier: str, on_message: Callable[[Arrival], None], *, says_when_gone: bool = False
    ) -> Link:
        """A connection, not made yet, that leaves nothing behind."""
        will = self.topics.gone if says_when_gone else None
        return self.link(identifier, on_message, keeps_session=False, clean_start=True, will=will)

    def link(
        self,
        identifier: str,
        on_message: Callable[[Arrival], None],
        *,
        keeps_session: bool,
        clean_start: bool,
        will: str | None = None,
    ) -> Link:
        """A connection, not made yet."""
        return Link(
            self._address, identifier, on_message, keeps_session=keeps_session, clean_start=clean_start, will=will,
            connect_timeout_s=self._connect_timeout_s, timeout_s=self._timeout_s,
        )  # fmt: skip

    def check_open(self) -> None:
        """Raise MessagingClosed after `close`."""
        if not self._is_open:
            raise MessagingClosed("the MQTT backend is not open; use it in `async with`, or call open()")

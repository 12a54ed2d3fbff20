"""One connection to an MQTT 5 broker: publishes that say what became of them, acknowledgements by hand."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import aiomqtt
from aiomqtt.client import ProtocolVersion
from paho.mqtt.client import MQTT_ERR_SUCCESS, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.mqtt.address import Address

T = TypeVar("T")

#: Session expiry interval that means never.
FOR_EVER = 0xFFFFFFFF
#: Reason code of a publish that no session, connected or not, is subscribed to.
NO_MATCHING_SUBSCRIBERS = 0x10
#: A peer that is silent for one and a half times this is gone, for the broker and for us.
_KEEPALIVE_S = 4

_FAILURES = 0x80
#: What the client would log we raise.
_SILENT = logging.getLogger("pynomaly_tasks.messaging.mqtt_client")
_SILENT.disabled = True
#: Packets that may wait to be written before those that are written at once.
_MOST_BEFORE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A message that the broker handed to a connection."""

    topic: str
    payload: bytes
    qos: int
    mid: int  #: what it is acknowledged by
    attributes: Mapping[str, str]


@contextmanager
def mapped_errors() -> Iterator[None]:
    """The client's errors as ours."""
    try:
        yield
    except (aiomqtt.MqttError, OSError, ValueError) as error:
        raise BrokerUnavailable(f"MQTT broker gave no answer: {error}") from error


class Link(aiomqtt.Client):
    """A connection under one client id; it is made once, and when it is lost another is made.

    ``on_message`` is called in the event loop for each message and must not raise. A message of
    quality 1 stays with the broker, and comes again to the next connection of the same client id,
    until `acknowledge`.
    """

    def __init__(
        self,
        address: Address,
        identifier: str,
        on_message: Callable[[Arrival], None],
        *,
        keeps_session: bool,
        clean_start: bool,
        will: str | None = None,
        connect_timeout_s: float,
        timeout_s: float,
    ) -> None:
        """Nothing is connected yet. ``keeps_session``: the broker keeps it for ever when we are away.

        ``will``: topic that the broker tells when the connection is lost.
        """
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's own
        properties.SessionExpiryInterval = FOR_EVER if keeps_session else 0
        properties.ReceiveMaximum = address.window
        super().__init__(
            address.host, address.port, username=address.user, password=address.password,
            identifier=identifier, protocol=ProtocolVersion.V5, clean_start=clean_start, properties=properties,
            will=None if will is None else aiomqtt.Will(will, b"1", qos=1),
            timeout=math.inf, keepalive=_KEEPALIVE_S,
            tls_context=address.tls_context(),
            logger=_SILENT, socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )  # fmt: skip
        self.pending_calls_threshold = 1_000_000
        self._client.manual_ack_set(True)
        self._client.connect_timeout = max(0.1, connect_timeout_s)
        self._arrived = on_message
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._was_made = False
        self._sent: dict[int, asyncio.Future[int]] = {}
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._disconnected.add_done_callback(self._on_lost)

    @property
    def is_up(self) -> bool:
        """Not lost as far as we know; so also before it is made."""
        return not self.lost.done() and (not self._was_made or self._client.is_connected())

    async def connect(self) -> None:
        """Raises BrokerUnavailable within the connect timeout."""
        connecting = asyncio.ensure_future(self._connect())
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # The thread that connects cannot be stopped. Once it has, the connection would take the
            # client id from those who use it.
            connecting.add_done_callback(lambda _: asyncio.ensure_future(self.disconnect()))
            raise

    async def _connect(self) -> None:
        with mapped_errors():
            try:
                async with asyncio.timeout(self._connect_timeout_s):
                    await self.__aenter__()
                    self._was_made = True
            except TimeoutError:
                raise BrokerUnavailable("MQTT broker did not answer within the connect timeout") from None

    async def disconnect(self) -> None:
        """Say goodbye; that there is nobody to say it to is fine."""
        with suppress(aiomqtt.MqttError, OSError, ValueError, TimeoutError):
            async with asyncio.timeout(self._connect_timeout_s):
                await self.__aexit__(None, None, None)
        if not self.lost.done():
            self.lost.set_result(None)

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        retain: bool = False,
        expires_s: float | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> asyncio.Future[int]:
        """Write it soon; the future has the broker's reason code, 0 for quality 0. Raises BrokerUnavailable."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's own
        if expires_s is not None:
            properties.MessageExpiryInterval = min(math.ceil(expires_s), FOR_EVER - 1)
        if attributes:
            properties.UserProperty = list(attributes.items())
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with mapped_errors():
            info = self._client.publish(topic, payload, qos, retain, properties)
        if info.rc != MQTT_ERR_SUCCESS or not self.is_up:
            raise BrokerUnavailable(f"MQTT broker is not connected: code {info.rc}")
        if qos == 0:
            future.set_result(0)
        else:
            self._sent[info.mid] = future
        return future

    async def answer(self, sent: asyncio.Future[int]) -> int:
        """The reason code that `send` promised. Raises BrokerUnavailable when there is none in time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                code = await sent
        except TimeoutError:
            raise BrokerUnavailable("MQTT broker did not acknowledge a message in time") from None
        if code >= _FAILURES:
            raise BrokerUnavailable(f"MQTT broker refused a message: reason code {code:#x}")
        return code

    async def listen(self, topic: str, *, qos: int = 1, no_local: bool = False) -> None:
        """Subscribe; what is retained there comes first. Raises BrokerUnavailable when it is refused."""
        options = SubscribeOptions(qos=qos, noLocal=no_local)
        codes = await self._in_time(self.subscribe(topic, options=options))
        for code in codes:
            value = code if isinstance(code, int) else code.value
            if value >= _FAILURES:
                raise BrokerUnavailable(
                    f"MQTT broker refused the subscription to {topic}: reason code {value:#x}"
                )

    async def unlisten(self, topic: str) -> None:
        """Unsubscribe."""
        await self._in_time(self.unsubscribe(topic))

    async def _in_time(self, coroutine: Coroutine[Any, Any, T]) -> T:
        # Not by the client's own timeouts: on Python 3.11 those lose a cancellation that comes with the
        # answer, and a connection that is lost does not end them.
        asking = asyncio.ensure_future(coroutine)
        first: set[asyncio.Future[Any]] = {asking, self.lost}
        try:
            await asyncio.wait(first, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not asking.done():
                asking.cancel()
        if asking.cancelling():
            raise BrokerUnavailable(
                "MQTT connection was lost" if self.lost.done() else "MQTT broker gave no answer in time"
            )
        with mapped_errors():
            return await asking

    def acknowledge(self, mid: int) -> bool:
        """The message is done; whether that could be written. One of quality 0, which has no ``mid``, is done already."""
        return mid == 0 or (self.is_up and self._client.ack(mid, 1) == MQTT_ERR_SUCCESS)

    def write_now(self, n_packets: int) -> None:
        """Hand what was sent to the system, so that it arrives though this process be killed the next moment."""
        for _ in range(n_packets + _MOST_BEFORE):
            if not self.is_up or not self._client.want_write():
                break
            self._write(self._client)

    def _on_message(self, client: Any, userdata: Any, message: MQTTMessage) -> None:
        self._arrived(
            Arrival(
                topic=message.topic,
                payload=bytes(message.payload),
                qos=message.qos,
                mid=message.mid,
                attributes=dict(getattr(message.properties, "UserProperty", ())),
            )
        )

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        self._loop.call_soon_threadsafe(self._write_when_possible, client, sock)

    def _write_when_possible(self, client: Any, sock: Any) -> None:
        # Since it was asked for, all may have been written, and the socket may have been closed.
        if sock is client.socket() and sock.fileno() >= 0 and client.want_write():
            self._loop.add_writer(sock.fileno(), self._write, client)

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())
        super()._on_socket_close(client, userdata, sock)

    def _write(self, client: Any) -> None:
        try:
            client.loop_write()
        except OSError as error:
            if not self._disconnected.done():
                self._disconnected.set_exception(error)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        sent = self._sent.pop(mid, None)
        if sent is not None and not sent.done():
            sent.set_result(reason_code if isinstance(reason_code, int) else reason_code.value)

    def _on_lost(self, disconnected: asyncio.Future[None]) -> None:
        error = None if disconnected.cancelled() else disconnected.exception()
        for sent in self._sent.values():
            if not sent.done():
                sent.set_exception(BrokerUnavailable(f"MQTT connection was lost: {error or 'closed'}"))
                sent.exception()  # seen: whoever waits for it is told all the same
        self._sent.clear()
        if not self.lost.done():
            self.lost.set_result(None)

"""Celery on Redis made safe and fast: kombu's Redis transport with another way to take messages.

Use it by name: ``broker_transport = "pynomaly_tasks.transport:Transport"`` beside ``broker_url =
"redis://..."``. See docs/transport.md.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import redis
from kombu import Connection
from kombu.transport import redis as kombu_redis

from pynomaly_tasks.transport.channel import OPTIONS, Reserving
from pynomaly_tasks.transport.ledger import Keys, Ledger
from pynomaly_tasks.transport.poller import Poller

#: The ledger's own connection never waits for longer than this, so that a renewal is tried again in time.
LEDGER_TIMEOUT_S = 5.0


class Channel(Reserving, kombu_redis.Channel):  # type: ignore[misc]  # kombu has no types
    """A channel on one Redis."""

    from_transport_options = (*kombu_redis.Channel.from_transport_options, *OPTIONS)


class SentinelChannel(Channel, kombu_redis.SentinelChannel):  # type: ignore[misc]  # kombu has no types
    """A channel on the master that Redis Sentinel names."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, *OPTIONS)


class Transport(kombu_redis.Transport):  # type: ignore[misc]  # kombu has no types
    """kombu's Redis transport; loses no message when a worker is killed."""

    Channel = Channel
    scheme = "redis"  #: what other programs know this broker by

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        self.has_event_loop = False
        self._ledger: Ledger | None = None
        _keep_transport(self.client)
        _name_as(self.scheme, self.client)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Deliver as messages come, instead of one at each `drain_events`."""
        self.has_event_loop = True
        super().register_with_event_loop(connection, loop)

    def close_connection(self, connection: Any) -> None:
        """Close the channels and their connections; the ledger keeps what is still being worked on."""
        super().close_connection(connection)
        if self._ledger is not None:
            self._ledger.disconnect()

    def ledger_of(self, channel: Any) -> Ledger:
        """The ledger that all channels of this transport share."""
        if self._ledger is None:
            pool = channel._get_pool()
            kwargs = pool.connection_kwargs
            kwargs["socket_timeout"] = min(kwargs.get("socket_timeout") or LEDGER_TIMEOUT_S, LEDGER_TIMEOUT_S)
            prefix = channel.global_keyprefix
            transport = weakref.ref(self)

            def is_consuming() -> bool:
                alive = transport()
                return alive is not None and any(c._consumers for c in list(alive.channels))

            self._ledger = Ledger(
                redis.Redis(connection_pool=pool),
                Keys(
                    unacked=prefix + channel.unacked_key,
                    index=prefix + channel.unacked_index_key,
                    pulse=f"{prefix}{channel.unacked_key}_pulse",
                ),
                lease_s=channel.lease_s,
                is_consuming=is_consuming,
            )
        return self._ledger


class SentinelTransport(Transport, kombu_redis.SentinelTransport):  # type: ignore[misc]  # kombu has no types
    """The same through Redis Sentinel."""

    default_port = kombu_redis.SentinelTransport.default_port
    Channel = SentinelChannel
    scheme = "sentinel"


def _name_as(scheme: str, connection: Any) -> None:
    # The URL that a connection gives of itself begins with its transport's name, as do `inspect stats`
    # and a worker's banner. Flower knows a broker by it, and would show no queue of one it does not know.
    name = "rediss" if scheme == "redis" and connection.ssl else scheme
    connection.resolve_aliases = {**Connection.resolve_aliases, connection.transport_cls: name}


def _keep_transport(connection: Any) -> None:
    # With several URLs, kombu goes on to the next one after a failure, and takes the transport from its
    # scheme: from then on it would be kombu's own.
    connection.switch = partial(_switch, weakref.proxy(connection), connection.transport_cls)


def _switch(connection: Any, transport: Any, url: str) -> None:
    connection.__class__.switch(connection, url)
    connection.transport_cls = transport

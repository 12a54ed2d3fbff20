"""What each broker with a client library of its own can do: said here, so that asking needs no client library.

Each is the ``capabilities`` of its class; the module of the class says how.
"""

from __future__ import annotations

from pynomaly_tasks.messaging.capabilities import Capabilities, Support

_N, _E = Support.NATIVE, Support.EMULATED

SQS = Capabilities(
    ack=_N, groups=_N, priority=_E, delay=_E, deduplication=_E, ttl=_E, dead_letters=_E, max_size=_E,
    depth=_N, purge=_E, persistence=_N,
)  # fmt: skip

KAFKA = Capabilities(
    ack=_E, groups=_E, priority=_E, delay=_E, deduplication=_E, ttl=_E, dead_letters=_E, order=_N,
    max_size=_E, confirmations=_E, replay=_E, depth=_E, purge=_E, persistence=_N,
)  # fmt: skip

MQTT = Capabilities(
    ack=_E, groups=_E, priority=_E, delay=_E, deduplication=_E, ttl=_E, dead_letters=_E, order=_E,
    max_size=_E, confirmations=_E, depth=_E, purge=_E, persistence=_N,
)  # fmt: skip

RABBITMQ = Capabilities(
    ack=_N, groups=_N, priority=_E, delay=_E, deduplication=_E, ttl=_E, dead_letters=_E, order=_N,
    max_size=_E, confirmations=_E, depth=_E, purge=_N, persistence=_N,
)  # fmt: skip

EVENT_HUBS = KAFKA

PUBSUB = Capabilities(
    ack=_N, groups=_N, priority=_E, delay=_E, deduplication=_E, ttl=_E, dead_letters=_E, purge=_E, persistence=_N,
)  # fmt: skip

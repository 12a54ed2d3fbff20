"""What a channel has delivered and nobody settled: counted here, kept by the ledger."""

from __future__ import annotations

import logging
import sys
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from pynomaly_tasks.transport.burying import bury_rejected
from pynomaly_tasks.transport.ledger import MARK

log = logging.getLogger(__name__)


class QoS(kombu_redis.QoS):  # type: ignore[misc]  # kombu has no types
    """kombu's, without its own bookkeeping in Redis: reserve.lua has done that."""

    _n_dropped = 0

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count a delivery. The message itself is not kept: its last user decides how long it lives."""
        if not self.channel.ledger.holds(delivery_tag):
            self.channel.ledger.hold([delivery_tag])
        virtual.QoS.append(self, None, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge, soon."""
        self.channel.ledger.acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put the message behind the others as kombu does, or into the dead letters."""
        if requeue:
            # At once, as kombu does it: who requeues a message may look for it next.
            self.channel.ledger.requeue(delivery_tag)
        elif self.channel.keep_rejected:
            bury_rejected(self.channel, delivery_tag, sys.exception())
        else:
            self.channel.ledger.acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def can_consume(self) -> bool:
        """Whether a message may be delivered; forgets what was dropped."""
        if super().can_consume():
            return True
        ledger = self.channel.ledger
        if self._n_dropped == ledger.n_dropped:
            return False
        self._n_dropped = ledger.n_dropped
        self._dirty.update([tag for tag in self._delivered if not ledger.holds(tag)])
        return bool(super().can_consume())

    def restore_unacked(self, client: Any = None) -> None:
        """Give back all that this channel delivered and nobody settled."""
        self._flush()
        for tag in self._delivered:
            self.channel.ledger.give_back(tag)
        self._delivered.clear()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """The channel closes: send what is settled. What still runs is kept; what does not comes back."""
        self._on_collect.cancel()
        self._flush()
        tags = list(self._delivered)
        self._delivered.clear()
        self._delivered.restored = True
        ledger = self.channel.__dict__.get("ledger")
        if ledger is None:
            return
        ledger.channel_closed(tags)
        try:
            ledger.flush()
        except (redis.RedisError, OSError) as error:
            log.warning("what is settled will be told to the broker later: %r", error)

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 10) -> None:
        """Give back what plain kombu's dead consumers held past their visibility timeout.

        By the server's clock; ours are given back by the ledger.
        """
        self._vrestore_count += 1
        if (self._vrestore_count - 1) % (interval or 1):
            return
        with self.channel.conn_or_acquire() as client:
            seconds, _ = client.time()
            overdue = client.zrange(
                self.unacked_index_key, seconds - self.visibility_timeout, 0,
                desc=True, byscore=True, offset=start, num=num or 1_000,
            )  # fmt: skip
            for tag in overdue:
                if not tag.startswith(MARK.encode()):
                    self.restore_by_tag(tag.decode(), client)

"""kombu's poller, for channels that ask with reserve.lua and wait for wake tokens."""

from __future__ import annotations

from queue import Empty
from typing import Any

from kombu.transport import redis as kombu_redis


class Poller(kombu_redis.MultiChannelPoller):  # type: ignore[misc]  # kombu has no types
    """Never leaves an answer unread.

    kombu pauses a connection when the worker's hands are full. Our question names how many messages it
    can take, so its answer always fits; unread, it would hold messages that nobody renews.
    """

    def _update_brpop_polling(self) -> None:
        pass

    def on_readable(self, fileno: int) -> Any:
        """Read an answer."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if kind == "BRPOP" and channel._in_poll:
            try:
                return channel.handlers[kind]()
            except Empty:
                if self._in_protected_read:
                    raise
                return None  # an event loop calls this, and nobody waits for a message
        return super().on_readable(fileno)

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Deliver one event; first what came with an earlier answer."""
        for channel in list(self._channels):
            if channel.deliver_arrived(1) == 1:
                return None
        return super().get(callback, timeout)

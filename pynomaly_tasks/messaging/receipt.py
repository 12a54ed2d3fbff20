"""What a sender gets: where the message went, and who acknowledged it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from pynomaly_tasks.errors import InvalidMessage, NotConfirmed
from pynomaly_tasks.messaging.message import Guarantee, Message
from pynomaly_tasks.messaging.session import Session

_SHORTEST_POLL_S, _LONGEST_POLL_S = 0.01, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The broker has the message in each of ``queues``."""

    message_id: str
    queues: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()  #: queues that had the same content or key within their window
    full: tuple[
        str, ...
    ] = ()  #: queues without room, whose copy is among their dead letters where they keep any
    n_needed: int = 0  #: acknowledgements that complete it; 0: none are told
    _session: Session = field(repr=False, compare=False)

    async def confirmed_by(self) -> frozenset[str]:
        """The subscribers that acknowledged so far; each counts once, and only if it was sent the message."""
        return await self._session.backend.read_notes(self.message_id) & frozenset(self.queues)

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """The subscribers that acknowledged, once they are enough.

        Raises NotConfirmed after ``timeout_s``, naming who is missing; InvalidMessage where the
        message was sent with a guarantee that does not tell.
        """
        if not self.n_needed:
            raise InvalidMessage.of(
                "guarantee", "tells nothing of acknowledgements; send with broadcast or quorum"
            )
        end, pause_s = time.monotonic() + timeout_s, _SHORTEST_POLL_S
        while len(confirmed := await self.confirmed_by()) < self.n_needed:
            left_s = end - time.monotonic()
            if left_s <= 0:
                missing = ", ".join(sorted(set(self.queues) - confirmed)) or "none that was sent the message"
                raise NotConfirmed(
                    f"{len(confirmed)} of the {self.n_needed} acknowledgements that message {self.message_id} needs "
                    f"came within {timeout_s:g} s; missing: {missing}"
                )
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_POLL_S)
        return confirmed


def needed(message: Message, quorum: int | None, n_subscribers: int) -> int:
    """How many acknowledgements complete the message. Raises InvalidMessage for a quorum that cannot be."""
    if message.guarantee is Guarantee.BROADCAST:
        return n_subscribers
    if message.guarantee is not Guarantee.QUORUM:
        if quorum is not None:
            raise InvalidMessage.of("quorum", "goes with the guarantee quorum only")
        return 0
    if quorum is None or type(quorum) is not int or quorum < 1:
        raise InvalidMessage.of("quorum", f"is {quorum!r:.40}; it must be a whole number from 1 on")
    if quorum > n_subscribers:
        raise InvalidMessage.of(
            "quorum",
            f"is {quorum}, and {n_subscribers} subscribers would get the message; it could never be reached",
        )
    return quorum

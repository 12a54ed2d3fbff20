"""What becomes of messages that this process holds: deleted, shown to others at once, or hidden from them for longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pynomaly_tasks.errors import PynomalyError
from pynomaly_tasks.messaging.backends.coalescing import Coalescers
from pynomaly_tasks.messaging.backends.sqs.connection import NotInFlight, SqsConnection
from pynomaly_tasks.messaging.plain_broker import LaneGone

#: Of one request.
_MOST = 10
_SWEEP_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Token:
    """One delivery."""

    url: str  #: of the queue
    message_id: str
    handle: str


class Leases:
    """When what this process holds is lost. SQS takes old receipts without a word, so it is asked here first."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[Token, float]] = {}
        self._n_begun = 0

    def begin(self, token: Token, until: float) -> None:
        """Ours until then by the monotonic clock; an older delivery of the same message is lost."""
        self._held[token.url, token.message_id] = (token, until)
        self._n_begun += 1
        if self._n_begun % _SWEEP_EVERY == 0:
            now = time.monotonic()
            self._held = {key: each for key, each in self._held.items() if each[1] > now}

    def is_ours(self, token: Token) -> bool:
        """Whether it is held and its lease has not ended."""
        held, until = self._held.get((token.url, token.message_id), (None, 0.0))
        return held == token and until > time.monotonic()

    def end(self, token: Token) -> None:
        """It is settled, or lost; a later delivery of the same message is not."""
        if self._held.get((token.url, token.message_id), (None, 0.0))[0] == token:
            del self._held[token.url, token.message_id]


@dataclass(frozen=True, slots=True)
class _Change:
    """What is asked of SQS for one delivery."""

    token: Token
    visible_in_s: int | None  #: None: delete it


class Settling:
    """What is asked of one queue in the same moment goes together, ten to a request."""

    def __init__(self, connection: SqsConnection) -> None:
        self.leases = Leases()
        self._connection = connection
        self._changes = Coalescers(self._change, lambda change: (change.token.url, change.visible_in_s))

    async def flush(self) -> None:
        """Before closing: until all that was asked for is done, 2 s at most."""
        await self._changes.flush()

    async def delete(self, tokens: Sequence[Token]) -> list[bool]:
        """They are done; False where the lease ended."""
        return await self._settle(tokens, None)

    async def show(self, token: Token) -> bool:
        """To whoever asks next; False where the lease ended."""
        (is_ours,) = await self._settle([token], 0)
        return is_ours

    async def hide(self, tokens: Sequence[Token], seconds: int) -> list[bool]:
        """Until so many seconds from now; False where the lease ended."""
        return await self._changes.call([_Change(token, seconds) for token in tokens])

    async def _settle(self, tokens: Sequence[Token], visible_in_s: int | None) -> list[bool]:
        answers = await self._changes.call([_Change(token, visible_in_s) for token in tokens])
        # Only now: when one failed all are tried again, and then those that were done are still ours to do again.
        for token in tokens:
            self.leases.end(token)
        return answers

    async def _change(
        self, what: tuple[str, int | None], changes: Sequence[_Change]
    ) -> list[bool | PynomalyError]:
        """All requests at the same time; one that fails is told to those that were in it."""
        url, visible_in_s = what
        ours = list(dict.fromkeys(each.token for each in changes if self.leases.is_ours(each.token)))
        batches = [ours[at : at + _MOST] for at in range(0, len(ours), _MOST)]
        answers: dict[Token, bool | PynomalyError] = {}
        for found in await asyncio.gather(*(self._request(url, visible_in_s, each) for each in batches)):
            answers |= found
        return [answers.get(each.token, False) for each in changes]

    async def _request(
        self, url: str, visible_in_s: int | None, tokens: Sequence[Token]
    ) -> dict[Token, bool | PynomalyError]:
        action, more = "delete_message_batch", {}
        if visible_in_s is not None:
            action, more = "change_message_visibility_batch", {"VisibilityTimeout": visible_in_s}
        asked = time.monotonic()
        try:
            done = await self._connection.batch(
                action, url, [{"ReceiptHandle": token.handle, **more} for token in tokens]
            )
        except LaneGone:
            return dict.fromkeys(tokens, False)
        except PynomalyError as error:
            return dict.fromkeys(tokens, error)
        except NotInFlight:
            if len(tokens) == 1:
                return {tokens[0]: False}
            # It does not say which: they are asked for one by one.
            alone = [await self._request(url, visible_in_s, [token]) for token in tokens]
            return {token: answer for each in alone for token, answer in each.items()}
        for token, is_done in zip(tokens, done, strict=True):
            if is_done and visible_in_s:
                self.leases.begin(token, asked + visible_in_s)
            elif not is_done:
                self.leases.end(token)
        return dict(zip(tokens, done, strict=True))

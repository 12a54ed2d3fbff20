"""Events that a group could not apply, kept for a person in a topic of their own.

A dead letter is the message as it was, its raw bytes and headers, with headers of ours that say
whose it is and why. The topic only grows: what a person decided is one more message, which names
the letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pynomaly_tasks.errors import EventRefused, PynomalyError
from pynomaly_tasks.events.ports import Producer, Record, StoredRecord

DEAD_LETTER_EVENTS = "dead_letter_events"

_PREFIX = "dead-letter-"
_GROUP = _PREFIX + "group"
_TOPIC = _PREFIX + "topic"
_PARTITION = _PREFIX + "partition"
_OFFSET = _PREFIX + "offset"
_APPENDED_AT = _PREFIX + "appended-at"
_REASON = _PREFIX + "reason"
_MESSAGE = _PREFIX + "message"
_ATTEMPTS = _PREFIX + "attempts"
_CUT_FROM = _PREFIX + "cut-from-bytes"
_SETTLES = _PREFIX + "settles"
_DECISION = _PREFIX + "decision"

#: Kept of a message that is too large for the topic of dead letters; the message names its full size.
CUT_TO_BYTES = 65_536
_MAX_MESSAGE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLetter:
    """One event that one group could not apply."""

    id: str  #: ``partition:offset`` in the topic of dead letters
    group: str
    reason: str
    message: str
    n_attempts: int
    at: datetime  #: when it was given up, UTC
    record: StoredRecord  #: the message as it was read, with its place
    cut_from_bytes: int | None  #: its full size, where only a beginning could be kept
    decision: str | None = None  #: ``redriven`` or ``discarded``; None while it waits for a person


class LetterBox:
    """Puts dead letters into their topic. The producer is started at the first one."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._started = False

    async def bury(
        self, group: str, record: StoredRecord, reason: str, message: str, n_attempts: int
    ) -> None:
        """Keep the message; returns when the log has it. Raises EventLogUnavailable, EventRefused."""
        headers = [
            (_GROUP, group.encode()),
            (_TOPIC, record.topic.encode()),
            (_PARTITION, str(record.partition).encode()),
            (_OFFSET, str(record.offset).encode()),
            (_APPENDED_AT, record.at.isoformat().encode()),
            (_REASON, reason.encode()),
            (_MESSAGE, message[:_MAX_MESSAGE].encode("utf-8", "replace")),
            (_ATTEMPTS, str(n_attempts).encode()),
        ]
        letter = Record(
            topic=DEAD_LETTER_EVENTS,
            key=record.key,
            value=record.value,
            headers=[*_without_ours(record), *headers],
        )
        error = await self._append(letter)
        if isinstance(error, EventRefused):
            error = await self._append(_shortened(letter, headers))
        if error is not None:
            raise error

    async def settle(self, letter: EventLetter, decision: str) -> None:
        """Note what a person decided. Raises EventLogUnavailable."""
        error = await self._append(
            Record(
                topic=DEAD_LETTER_EVENTS,
                key=letter.record.key,
                value=None,
                headers=[(_SETTLES, letter.id.encode()), (_DECISION, decision.encode())],
            )
        )
        if error is not None:
            raise error

    async def _append(self, record: Record) -> PynomalyError | None:
        if not self._started:
            await self._producer.start()
            self._started = True
        [error] = await self._producer.send([record])
        return error

    async def close(self) -> None:
        """Disconnect."""
        if self._started:
            self._started = False
            await self._producer.stop()


def _shortened(letter: Record, ours: Sequence[tuple[str, bytes]]) -> Record:
    """What fits in any topic: a beginning, without the message's own headers."""
    value = letter.value or b""
    return Record(
        topic=letter.topic,
        key=None if letter.key is None else letter.key[:_MAX_MESSAGE],
        value=value[:CUT_TO_BYTES],
        headers=[*ours, (_CUT_FROM, str(len(value)).encode())],
    )


def open_letters(records: Sequence[StoredRecord]) -> list[EventLetter]:
    """The letters among all messages of the topic, oldest first, each with what was decided.

    Messages that are none of ours are passed over.
    """
    decisions: dict[str, str] = {}
    letters: list[EventLetter] = []
    for record in records:
        ours = _ours(record)
        if _SETTLES in ours:
            decisions[ours[_SETTLES]] = ours.get(_DECISION, "")
        elif letter := _letter(record, ours):
            letters.append(letter)
    letters.sort(key=lambda letter: (letter.at, letter.id))
    return [_decided(letter, decisions.get(letter.id)) for letter in letters]


def _ours(record: StoredRecord) -> Mapping[str, str]:
    return {
        name: value.decode("utf-8", "replace") for name, value in record.headers if name.startswith(_PREFIX)
    }


def _without_ours(record: StoredRecord) -> list[tuple[str, bytes]]:
    return [header for header in record.headers if not header[0].startswith(_PREFIX)]


def _letter(record: StoredRecord, ours: Mapping[str, str]) -> EventLetter | None:
    try:
        original = StoredRecord(
            topic=ours[_TOPIC],
            key=record.key,
            value=record.value,
            headers=_without_ours(record),
            partition=int(ours[_PARTITION]),
            offset=int(ours[_OFFSET]),
            at=datetime.fromisoformat(ours[_APPENDED_AT]).astimezone(UTC),
        )
        return EventLetter(
            id=f"{record.partition}:{record.offset}",
            group=ours[_GROUP],
            reason=ours[_REASON],
            message=ours.get(_MESSAGE, ""),
            n_attempts=int(ours.get(_ATTEMPTS, "0")),
            at=record.at,
            record=original,
            cut_from_bytes=int(ours[_CUT_FROM]) if _CUT_FROM in ours else None,
        )
    except (KeyError, ValueError):
        return None


def _decided(letter: EventLetter, decision: str | None) -> EventLetter:
    return letter if decision is None else replace(letter, decision=decision)

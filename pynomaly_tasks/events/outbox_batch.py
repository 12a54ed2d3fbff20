"""One batch of the outbox: its events as records, and what became of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from pynomaly_tasks.core.event import Event, OutboxEntry
from pynomaly_tasks.core.outbox import UnreadableEntry
from pynomaly_tasks.errors import BadEvent, EventRefused, PynomalyError
from pynomaly_tasks.events.ports import Record

#: An event that fails where others pass, for a reason that nobody foresaw, is given up after so many tries.
MAX_ATTEMPTS = 5
#: So many events that all fail one by one, and none that passes: then it is the log.
_MOST_SUSPECTS = 64

Encode = Callable[[Event], Record]
Key = tuple[str, str]  #: topic and key: what order holds within
Answers = Sequence[Exception | None]
Append = Callable[[Sequence[Record]], Awaitable[Answers]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An event of the outbox, ready to be appended."""

    number: int
    key: Key
    n_attempts: int
    record: Record


@dataclass(slots=True, kw_only=True)
class Batch:
    """Rows to publish, in their order, and what is known of others before anything was sent."""

    n_read: int
    rows: list[Row] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)  #: number to reason: never to be published
    failed: dict[int, str] = field(default_factory=dict)  #: number to reason: to be tried again
    keys_failed: dict[int, Key] = field(default_factory=dict)  #: of those
    waiting: set[Key] = field(default_factory=set)  #: keys that something failed of

    @property
    def numbers(self) -> list[int]:
        """Of the rows whose fate this batch decides."""
        return [*(row.number for row in self.rows), *self.refused, *self.failed]

    def leave_out(self, keys: Collection[Key]) -> None:
        """Publish nothing of these keys: an earlier event of theirs is not published."""
        if keys:
            self.rows = [row for row in self.rows if row.key not in keys]
            for number in [number for number, key in self.keys_failed.items() if key in keys]:
                del self.failed[number], self.keys_failed[number]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a batch."""

    sent: list[Row] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)  #: holds its key back
    waiting: set[Key] = field(default_factory=set)
    away: str | None = None  #: why nothing could be appended: no event's own fault


def prepare(entries: Sequence[OutboxEntry | UnreadableEntry], encode: Encode) -> Batch:
    """The entries as records. What cannot be encoded is refused, or held back where a bug may be the cause."""
    batch = Batch(n_read=len(entries))
    for entry in entries:
        if isinstance(entry, UnreadableEntry):
            batch.refused[entry.number] = entry.reason
            continue
        key = (entry.event.topic, entry.event.key)
        if key in batch.waiting:
            continue
        try:
            record = encode(entry.event)
        except (BadEvent, EventRefused) as error:
            batch.refused[entry.number] = str(error)
        except Exception as error:
            # One event must not end the relay for all others, whatever is wrong with it.
            _fail(batch, entry.number, key, entry.n_attempts, error)
            if entry.number in batch.failed:
                batch.keys_failed[entry.number] = key
        else:
            batch.rows.append(Row(number=entry.number, key=key, n_attempts=entry.n_attempts, record=record))
    return batch


async def publish(batch: Batch, append: Append) -> Outcome:
    """Append the batch's rows. ``append`` answers for each record, and raises what nobody foresaw.

    Then the rows are appended in halves, down to the one that it raises for. An error that comes
    with every row is the log's, and no row is blamed.
    """
    outcome = Outcome(refused=batch.refused, failed=batch.failed, waiting=batch.waiting)
    unavailable: list[tuple[Row, Exception]] = []
    suspects: list[tuple[Row, Exception]] = []
    settled: set[int] = set()
    parts = [batch.rows]
    while parts and (settled or len(suspects) < _MOST_SUSPECTS):
        part = [row for row in parts.pop() if row.key not in outcome.waiting]
        if not part:
            continue
        try:
            answers = await append([row.record for row in part])
            answered = list(zip(part, answers, strict=True))
        except Exception as error:
            if len(part) > 1:
                parts += [part[len(part) // 2 :], part[: len(part) // 2]]
            else:
                suspects.append((part[0], error))
                outcome.waiting.add(part[0].key)
            continue
        for row, answer in answered:
            if answer is None:
                outcome.sent.append(row)
            elif isinstance(answer, (EventRefused, BadEvent)):
                outcome.refused[row.number] = str(answer)
            else:
                if row.key not in outcome.waiting:
                    unavailable.append((row, answer))
                    outcome.waiting.add(row.key)
                continue
            settled.add(row.number)
        if not any(answer is None for answer in answers):
            break  # the log is away, or refuses all: what is left is tried in the next round
    outcome.waiting |= {row.key for row in batch.rows if row.number not in settled}
    if unavailable or suspects:
        if settled:
            outcome.failed |= {row.number: _described(answer) for row, answer in unavailable}
            for row, raised in suspects:
                _fail(outcome, row.number, row.key, row.n_attempts, raised)
        else:
            outcome.away = _described((unavailable or suspects)[0][1])
    return outcome


def _fail(into: Batch | Outcome, number: int, key: Key, n_attempts: int, error: Exception) -> None:
    if n_attempts + 1 >= MAX_ATTEMPTS:
        into.refused[number] = (
            f"failed {n_attempts + 1} times where other events did not: {_described(error)}"
        )
    else:
        into.failed[number] = _described(error)
        into.waiting.add(key)


def _described(error: Exception) -> str:
    return str(error) if isinstance(error, PynomalyError) else f"{type(error).__name__}: {error}"

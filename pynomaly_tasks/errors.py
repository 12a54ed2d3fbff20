"""Every error the platform raises on purpose.

PynomalyError
├── InvalidInput            the caller's mistake: names the field, the limit and the way out
│   ├── InvalidRequest      a job request or a query
│   ├── InvalidDataset      the data itself: empty, ragged, binary, too wide
│   ├── InvalidMessage      a message that no queue would take: too large, no JSON, a wrong name
│   ├── InvalidQueue        a queue's name or options, or a topic pattern
│   │   └── NotSupported    the messaging backend lacks what the options ask for; names those that have it
│   └── InvalidSettings     the configuration
├── NotFound                no job, result or artifact by that id
├── Conflict
│   ├── JobAlreadyFinal     the job has ended; nothing about it can change
│   ├── IdempotencyMismatch the idempotency key is taken by a job with another request
│   ├── StaleAttempt        a newer attempt owns the job; this one's result is refused
│   ├── QueueExists         a queue of that name has other options
│   ├── AlreadySettled      this delivery was acknowledged, given back or rejected before
│   ├── LeaseLost           another consumer may hold the message now; this settlement is refused
│   ├── MessagingClosed     the manager or its backend was closed
│   └── PartitionLost       another member of the consumer group reads the partition now
├── EventRefused            the log of events will never take this event: too large, no such topic
├── BadEvent                a message that is no event of the catalogue; says which reason
├── UnreadableMessage       bytes in a queue that are no message: truncated, tampered, wrongly encrypted
├── JobFailed               what `AsyncResult.get()` raises where the job's own error cannot be raised again
├── TaskFailed              a task over messaging failed or was cancelled, so that it has no result
├── Interrupted             raised inside a running job, at its next checkpoint
│   ├── JobCancelled        somebody cancelled the job
│   └── TimeLimitExceeded   the attempt ran longer than its time limit
└── Unavailable             a neighbour gave no answer; trying later may help
    ├── BrokerUnavailable
    ├── QueueFull           the queue holds as many messages as its options allow
    ├── NotConfirmed        fewer subscribers acknowledged in time than the guarantee asks for
    ├── NoHandler           no process has a handler for this type of task yet
    ├── StoreUnavailable
    ├── EventLogUnavailable Kafka, or the Redis that keeps the events
    ├── SourceUnavailable   a dataset's storage
    └── DeliveryFailed      a notification channel
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pynomaly_tasks.core.event_data import EventData


class PynomalyError(Exception):
    """Root of the tree."""

    #: Whether the same attempt may succeed later. Workers read this flag; they never compare
    #: class names.
    retryable = False
    #: Told with the end of an attempt that raises this.
    events: Sequence[EventData] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One thing wrong with one field of the input."""

    field: str  #: dotted path, such as ``detector.params.n_neighbors``
    message: str  #: what is wrong, the limit, and what to do instead


class InvalidInput(PynomalyError):
    """The caller's mistake. ``problems`` holds one entry a field, in the input's order."""

    def __init__(self, *problems: FieldProblem | str) -> None:
        # Celery's result backend rebuilds an error from its message alone.
        super().__init__("; ".join(p if isinstance(p, str) else f"{p.field}: {p.message}" for p in problems))
        self.problems = tuple(p for p in problems if isinstance(p, FieldProblem))

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.problems or self.args)

    @classmethod
    def of(cls, field: str, message: str) -> Self:
        """The error for one field."""
        return cls(FieldProblem(field=field, message=message))


class InvalidRequest(InvalidInput):
    """A job request or a query that cannot be accepted; nothing was stored or queued."""


class InvalidDataset(InvalidInput):
    """The data cannot be worked on as it is. Trying again without changing it cannot help."""


class InvalidMessage(InvalidInput):
    """No queue would take this message; nothing was sent."""


class InvalidQueue(InvalidInput):
    """A queue's name or options, or a topic pattern, that cannot be; nothing was made."""


class NotSupported(InvalidQueue):
    """The messaging backend lacks what was asked for; the message names the backends that have it."""


class InvalidSettings(InvalidInput):
    """The configuration is wrong or contradicts itself; nothing was started."""


class NotFound(PynomalyError):
    """Nothing exists by that id."""


class Conflict(PynomalyError):
    """The request is fine but the current state does not allow it."""


class JobAlreadyFinal(Conflict):
    """The job has ended; nothing about it can change. Replay it to run it again."""


class IdempotencyMismatch(Conflict):
    """The idempotency key belongs to a job with another kind or request."""


class StaleAttempt(Conflict):
    """A newer attempt owns the job, or it has ended; this attempt's result is refused."""


class PartitionLost(Conflict):
    """Another member of the consumer group reads the partition now; this one's commit is refused."""


class QueueExists(Conflict):
    """A queue of that name exists with other options; it is left as it is."""


class AlreadySettled(Conflict):
    """This delivery was acknowledged, given back or rejected before; settle each exactly once."""


class LeaseLost(Conflict):
    """The delivery's lease ran out and another consumer may hold the message; nothing was changed."""


class MessagingClosed(Conflict):
    """The manager or its backend was closed, or never opened; nothing was sent."""


class EventRefused(PynomalyError):
    """The log of events will never take this event as it is; sending it again cannot help."""


class BadEvent(PynomalyError):
    """A message that is no event of the catalogue; ``reason`` is a word of `EventProblem`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.reason, *self.args))


class UnreadableMessage(PynomalyError):
    """Bytes in a queue that are no message; reading them again cannot help."""


class JobFailed(PynomalyError):
    """The job ended without a result; the message names the error's type and says what it said."""


class TaskFailed(PynomalyError):
    """The task over messaging has no result: it failed, was cancelled, or a task before it was."""


class Interrupted(PynomalyError):
    """The running job must stop now; work code lets this pass."""


class JobCancelled(Interrupted):
    """Somebody cancelled the job."""


class TimeLimitExceeded(Interrupted):
    """The attempt ran longer than its time limit."""


class Unavailable(PynomalyError):
    """A neighbour gave no answer in time; what it did with the request is unknown."""

    retryable = True


class BrokerUnavailable(Unavailable):
    """The broker gave no answer in time; whether it took the message is unknown."""


class QueueFull(Unavailable):
    """The queue holds as many messages as its options allow; nothing was sent."""


class NotConfirmed(Unavailable):
    """Fewer subscribers acknowledged in time than the guarantee asks for; the message stays with the others."""


class NoHandler(Unavailable):
    """No process has registered a handler for this type of task yet; nothing was kept or sent."""


class StoreUnavailable(Unavailable):
    """The database gave no answer in time."""


class EventLogUnavailable(Unavailable):
    """The log of events gave no answer in time; whether it took what was sent is unknown."""


class SourceUnavailable(Unavailable):
    """A dataset's storage gave no answer in time."""


class DeliveryFailed(Unavailable):
    """A notification channel refused, or did not answer in time; it may have taken the message."""

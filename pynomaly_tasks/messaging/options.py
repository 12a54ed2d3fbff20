"""How a queue behaves; and three ready-made ways."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

import orjson

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import InvalidQueue

MAX_SECONDS = 366 * 86_400.0


class Kind(Enum):
    """The order in which a queue hands out."""

    #: As sent, nearly so where the backend has no order; a delayed message takes its place when it falls due.
    FIFO = "fifo"
    PRIORITY = "priority"  #: higher priority first, as sent within equals
    DELAY = "delay"  #: as they fall due; ``delay_s`` holds for messages that name none


class Overflow(Enum):
    """What a full queue does with one message more."""

    REFUSE = "refuse"  #: QueueFull
    DROP_OLDEST = "drop_oldest"  #: the oldest that waits, of the lowest priority, becomes a dead letter


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """What was decided when a queue was made; every process that uses it sees the same.

    Raises InvalidQueue, naming the field and its limit.
    """

    kind: Kind = Kind.FIFO
    delay_s: float = 0.0  #: of each message that names none; asks for the kind delay
    deduplication_s: float = 0.0  #: how long the same content or key is not sent again; 0 never looks
    ttl_s: float | None = None  #: of each message that names none; None: they never expire
    max_size: int | None = None  #: messages not yet settled, waiting and held together; None: no limit
    overflow: Overflow = Overflow.REFUSE
    retry: RetryPolicy = field(
        default_factory=lambda: RetryPolicy(max_retries=3, backoff_s=1.0, backoff_max_s=300.0)
    )
    lease_s: float = 30.0  #: a delivery that is not settled by then is handed to another consumer
    dead_letters: bool = True  #: off: what cannot be done is dropped, and counted

    def __post_init__(self) -> None:
        _check_type(self, kind=Kind, overflow=Overflow, retry=RetryPolicy, dead_letters=bool)
        _check_seconds("delay_s", self.delay_s, low=0.0)
        _check_seconds("deduplication_s", self.deduplication_s, low=0.0)
        if self.ttl_s is not None:
            _check_seconds("ttl_s", self.ttl_s, low=0.001)
        _check_seconds("lease_s", self.lease_s, low=0.001)
        _check_seconds("retry.backoff_s", self.retry.backoff_s, low=0.0)
        _check_seconds("retry.backoff_max_s", self.retry.backoff_max_s, low=0.0)
        if not 0 <= self.retry.max_retries <= 1_000:
            raise InvalidQueue.of("retry.max_retries", f"is {self.retry.max_retries}; it must be 0 to 1,000")
        if not 0.0 <= self.retry.jitter <= 1.0:
            raise InvalidQueue.of("retry.jitter", f"is {self.retry.jitter}; it is a share, 0 to 1")
        if self.max_size is not None and not (type(self.max_size) is int and 1 <= self.max_size <= 10**9):
            raise InvalidQueue.of(
                "max_size", f"is {self.max_size!r}; it must be a whole number, 1 to 1,000,000,000"
            )
        if self.delay_s and self.kind is not Kind.DELAY:
            raise InvalidQueue.of(
                "delay_s", f"is for queues of the kind delay, and this one is {self.kind.value}"
            )
        if self.overflow is Overflow.DROP_OLDEST and self.max_size is None:
            raise InvalidQueue.of("overflow", "drop_oldest needs a max_size to overflow")

    def to_record(self) -> bytes:
        """Canonical JSON: equal options give equal bytes."""
        values = asdict(self) | {"kind": self.kind.value, "overflow": self.overflow.value}
        return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_record(cls, record: bytes) -> QueueOptions:
        """What `to_record` wrote."""
        values: dict[str, Any] = orjson.loads(record)
        return cls(
            **values
            | {
                "kind": Kind(values["kind"]),
                "overflow": Overflow(values["overflow"]),
                "retry": RetryPolicy(**values["retry"]),
            }
        )


def _check_type(options: QueueOptions, **types: type) -> None:
    for name, wanted in types.items():
        value = getattr(options, name)
        if not isinstance(value, wanted):
            raise InvalidQueue.of(name, f"must be {wanted.__name__}, not {type(value).__name__}")


def _check_seconds(name: str, value: object, *, low: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise InvalidQueue.of(name, f"is {value!r}; it must be a number of seconds")
    if not low <= value <= MAX_SECONDS:
        raise InvalidQueue.of(name, f"is {value:g}; it must be {low:g} to {MAX_SECONDS:,.0f} seconds")


#: At least once, four tries, dead letters.
STANDARD = QueueOptions()

#: For messages that lose their worth: short leases, one more try, no dead letters.
HIGH_THROUGHPUT = replace(
    STANDARD,
    retry=RetryPolicy(max_retries=1, backoff_s=0.1, backoff_max_s=1.0),
    lease_s=10.0,
    dead_letters=False,
)

#: For messages that must be done: eleven tries over about half an hour, repeats within five minutes not sent.
RELIABLE = replace(
    STANDARD,
    retry=RetryPolicy(max_retries=10, backoff_s=1.0, backoff_max_s=600.0),
    deduplication_s=300.0,
    lease_s=60.0,
)

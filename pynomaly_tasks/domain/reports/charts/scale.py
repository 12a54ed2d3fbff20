"""From data to drawing units, and where the ticks go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_TIME_STEPS_S = (
    1, 2, 5, 10, 15, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE,
    _HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY,
)  # fmt: skip
_MONTH_STEPS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600)
_SECONDS_A_MONTH = 30.44 * _DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One mark on an axis."""

    at: float  #: in drawing units
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A straight line from data to drawing units."""

    data_min: float
    data_max: float
    start: float  #: where ``data_min`` is drawn
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value, to a tenth."""
        span = self.data_max - self.data_min
        share = (value - self.data_min) / span if span else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def padded(values: Sequence[float], start: float, end: float, pad: float = 0.06) -> Scale:
    """A scale on which all values lie inside, a little off the edges."""
    low, high = min(values), max(values)
    space = (high - low) * pad or abs(high) * pad or 1.0
    return Scale(data_min=low - space, data_max=high + space, start=start, end=end)


def spread(at: Sequence[float], start: float, end: float) -> Scale:
    """A scale on which sorted places fill the width."""
    low, high = at[0], at[-1]
    if low == high:
        low, high = low - 1, high + 1
    return Scale(data_min=low, data_max=high, start=start, end=end)


def number_ticks(scale: Scale, n: int = 5) -> list[Tick]:
    """About ``n`` round numbers."""
    span = scale.data_max - scale.data_min
    if not (math.isfinite(span) and span > 0):
        return []
    # Far from zero, numbers closer than this are one and the same float.
    rough = max(span / n, 4 * math.ulp(max(abs(scale.data_min), abs(scale.data_max))))
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough), 10 * power)
    first, last = math.ceil(scale.data_min / step), math.floor(scale.data_max / step)
    values = (k * step for k in range(first, last + 1))
    return [
        Tick(at=scale(min(max(value, scale.data_min), scale.data_max)), label=_round_label(value, step))
        for value in values
    ]


def _round_label(value: float, step: float) -> str:
    size = max(abs(value), step)
    if size >= 1e7 or step < 1e-5:
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1  # steps of 2.5
    return f"{value:,.{decimals}f}" if value else "0"


def time_ticks(scale: Scale, n: int = 8) -> list[Tick]:
    """About ``n`` round instants; the scale is in seconds since 1970, labels are as in the data."""
    span = scale.data_max - scale.data_min
    if not span > 0:
        return [Tick(at=scale(scale.data_min), label=f"{_utc(scale.data_min):%Y-%m-%d %H:%M}")]
    rough = span / n
    if rough <= _TIME_STEPS_S[-1]:
        step = next(s for s in _TIME_STEPS_S if s >= rough)
        # Weeks start on a Monday; 1970-01-05 was one.
        offset = 4 * _DAY if step >= 7 * _DAY else 0.0
        first = math.ceil((scale.data_min - offset) / step)
        last = math.floor((scale.data_max - offset) / step)
        instants = [offset + k * step for k in range(first, last + 1)]
        with_hours, with_seconds = step < _DAY, step < _MINUTE
        labels = list(_day_labels(instants, with_hours, with_seconds))
    else:
        months = next((m for m in _MONTH_STEPS if m * _SECONDS_A_MONTH >= rough), _MONTH_STEPS[-1])
        instants = list(_month_starts(scale.data_min, scale.data_max, months))
        labels = [f"{_utc(at):%Y}" if months >= 12 else f"{_utc(at):%b %Y}" for at in instants]
    return [Tick(at=scale(at), label=label) for at, label in zip(instants, labels, strict=True)]


def _day_labels(instants: Sequence[float], with_hours: bool, with_seconds: bool) -> Iterator[str]:
    day = None
    for instant in instants:
        at = _utc(instant)
        clock = f"{at:%H:%M:%S}" if with_seconds else f"{at:%H:%M}"
        if not with_hours:
            yield f"{at.day} {at:%b %Y}" if day is None or at.year != day.year else f"{at.day} {at:%b}"
        else:
            yield clock if at.date() == day else f"{at.day} {at:%b} {clock}"
        day = at.date()


def _month_starts(start: float, end: float, months: int) -> Iterator[float]:
    at = _utc(start)
    index = (at.year * 12 + at.month - 1) // months * months
    while True:
        year, month = divmod(index, 12)
        if year > 9999:
            return
        if year >= 1:
            instant = datetime(year, month + 1, 1, tzinfo=UTC).timestamp()
            if instant > end:
                return
            if instant >= start:
                yield instant
        index += months


def _utc(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def seconds_since_1970(timestamp: str) -> float:
    """An ISO timestamp on a straight axis; a local time without zone counts as UTC. Raises ValueError."""
    at = datetime.fromisoformat(timestamp)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()

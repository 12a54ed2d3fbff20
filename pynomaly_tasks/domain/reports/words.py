"""Numbers, times and other people's text, as the report shows them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

NOTHING = "—"
_REPLACED = "\N{REPLACEMENT CHARACTER}"
#: Cc would vanish or break lines, Cs cannot be written as UTF-8, and Cf holds the marks that turn the
#: direction of text, with which a name can pose as another.
_UNSEEN = frozenset({"Cc", "Cs", "Cf"})


def clean(text: str) -> str:
    """The text with every invisible character shown as U+FFFD; tabs and line ends become spaces.

    >>> clean("a\\tb\\x00c")
    'a b\ufffdc'
    """
    if text.isprintable():
        return text
    return "".join(
        " " if letter in "\t\r\n" else _REPLACED if unicodedata.category(letter) in _UNSEEN else letter
        for letter in text
    )


def cut(text: str, n_characters: int) -> str:
    """At most ``n_characters``, the last of them an ellipsis where something is missing."""
    return text if len(text) <= n_characters else text[: n_characters - 1] + "…"


def show(value: Any, n_characters: int = 80) -> str:
    """Any JSON value, short.

    >>> [show(x) for x in (None, True, 1234567, 0.1 + 0.2, 1e-7, 123456.789, float("nan"), "a")]
    ['—', 'true', '1,234,567', '0.3', '1e-07', '123,457', '—', 'a']
    """
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return cut(f"{value:,}", n_characters)
    if isinstance(value, float):
        return show_number(value)
    if isinstance(value, dict):
        return cut(", ".join(f"{key} {show(one, 40)}" for key, one in value.items()), n_characters)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return cut(", ".join(show(one, 40) for one in value), n_characters)
    return clean(cut(str(value), n_characters))


def show_number(value: float | None) -> str:
    """Four significant digits, or all digits before the point."""
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-4:
        return f"{value:.3g}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def show_share(value: float | None) -> str:
    """A share from 0 to 1 in percent.

    >>> [show_share(x) for x in (0, 0.00001, 0.0123, 0.5, 0.9999, 1)]
    ['0 %', '< 0.1 %', '1.2 %', '50 %', '> 99.9 %', '100 %']
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.0f} %" if value >= 0.1 or value <= 0 else f"{100 * value:.1f} %"


def show_bytes(value: int | float | None) -> str:
    """A size.

    >>> [show_bytes(x) for x in (0, 1023, 1536, 5 * 2**30)]
    ['0 B', '1023 B', '1.5 KiB', '5.0 GiB']
    """
    if value is None:
        return NOTHING
    if value < 1024:
        return f"{value:.0f} B"
    power = min(4, int(math.log2(value) // 10))
    return f"{value / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def show_seconds(value: float | None) -> str:
    """A duration.

    >>> [show_seconds(x) for x in (0.0042, 1.26, 75, 7325)]
    ['4 ms', '1.3 s', '1 min 15 s', '2 h 2 min']
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"


def show_time(value: datetime) -> str:
    """An instant, to the second."""
    return value.strftime("%Y-%m-%d %H:%M:%S") + (" UTC" if value.utcoffset() is not None else "")


def show_timestamp(value: str | None) -> str:
    """An ISO timestamp of the data, without what is zero anyway.

    >>> [show_timestamp(x) for x in ("2014-01-05T00:00:00", "2014-01-05T10:30:00Z", "soon", None)]
    ['2014-01-05', '2014-01-05 10:30', 'soon', '—']
    """
    if value is None:
        return NOTHING
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return clean(cut(value, 40))
    if at.microsecond:
        return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
    if at.second:
        return f"{at:%Y-%m-%d %H:%M:%S}"
    return f"{at:%Y-%m-%d %H:%M}" if at.hour or at.minute else f"{at:%Y-%m-%d}"

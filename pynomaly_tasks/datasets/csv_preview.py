"""A first look at delimited text: names, encoding, the fields of each line, columns without values.

Where quotes or line ends are laid out in a way that two readers could take differently, nothing is said.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from operator import itemgetter

from pynomaly_tasks.datasets.csv_dialect import (
    MISSING_WORDS,
    Dialect,
    open_quote,
    read_dialect,
    records,
    wrong_field_count,
)
from pynomaly_tasks.datasets.limits import Limits
from pynomaly_tasks.datasets.preview import Evidence, Preview, hold_no_date, hold_no_number
from pynomaly_tasks.datasets.source import check_utf8, not_text, refused

_MISSING = frozenset(MISSING_WORDS)


def look_at_csv(source: str, data: bytes, limits: Limits, *, whole: bool) -> Preview:
    """What the start of a file shows. whole: data is all of it. Raises InvalidDataset."""
    dialect = read_dialect(source, data)
    limits.check_names(source, dialect.names)
    check_utf8(source, data, start=0, last=whole)
    if (at := data.find(b"\0")) >= 0:
        raise not_text(source, at)
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="ignore")
    lines = _split(source, text, dialect, whole=whole)
    if lines is None:
        return Preview(names=dialect.names)
    lines.check_fields(source)
    if whole:
        limits.check_rows(source, lines.n_rows)
    return _evidence(text, lines, whole=whole)


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines after the first without what stands in quotes; a line break in quotes ends no line."""

    dialect: Dialect
    parts: Sequence[str]  #: the text, split at every quote: what stands in quotes is at odd positions
    end: str
    body: Sequence[str]
    n_rows: int

    def check_fields(self, source: str) -> None:
        """Raises InvalidDataset for the first line with more or fewer fields than there are columns."""
        n_columns = len(self.dialect.names)
        delimiter = self.dialect.delimiter
        n_delimiters = list(map(str.count, self.body, repeat(delimiter)))
        if n_delimiters.count(n_columns - 1) == len(self.body):
            return
        for number, (line, n_found) in enumerate(zip(self.body, n_delimiters, strict=True), start=1):
            # A blank line is no row, and duckdb takes missing values after the last column for nothing.
            surplus = line.split(delimiter)[n_columns:]
            if line and (n_found < n_columns - 1 or not _MISSING.issuperset(surplus)):
                raise refused(f"{source!r} {wrong_field_count(self._number(number), n_found + 1, n_columns)}")

    def _number(self, n_ends: int) -> int:
        """The line of the file, from 1, that follows so many line ends outside quotes."""
        n_outside = n_inside = 0
        for outside, inside in zip(self.parts[::2], [*self.parts[1::2], ""], strict=False):
            n_outside += outside.count(self.end)
            if n_outside >= n_ends:
                break
            n_inside += inside.count("\n")
        return n_ends + n_inside + 1


def _split(source: str, text: str, dialect: Dialect, *, whole: bool) -> _Lines | None:
    """None where it is not certain how the text is read. Raises InvalidDataset for a quote left open."""
    parts = text.split('"')
    if not _are_quotes_clear(parts, dialect.delimiter):
        return None
    if len(parts) % 2 == 0:
        inside = parts.pop()
        if whole:
            n_before = text.count("\n") - inside.count("\n")
            raise refused(f"{source!r} {open_quote(n_before + 1)}")
    bare = "".join(parts[::2])
    end = _line_end(bare if whole else bare.removesuffix("\r"))
    if end is None:
        return None
    first, *body = bare.split(end)
    # What follows the last line end is no line, or one that was cut off; but a line may be all in quotes.
    if body and not (whole and (body[-1] or parts[-1] == "")):
        body.pop()
    if first.count(dialect.delimiter) != len(dialect.names) - 1:
        return None
    # Blank lines are rows where there is one column, else nothing.
    n_blank = body.count("") if len(dialect.names) > 1 else 0
    return _Lines(dialect, parts, end, body, len(body) - n_blank)


def _are_quotes_clear(parts: Sequence[str], delimiter: str) -> bool:
    """Whether every quoted value fills its cell, so that no quote stands in the middle of one."""
    outside = parts[::2]
    n_followed = len(parts) // 2  # by a quoted value
    # Sets of single characters, because a file may hold a million quotes.
    firsts = set(map(itemgetter(0), filter(None, outside[1:])))
    lasts = set(map(itemgetter(-1), filter(None, outside[:n_followed])))
    return firsts <= {delimiter, "\r", "\n"} and lasts <= {delimiter, "\n"}


def _line_end(bare: str) -> str | None:
    n_returns = bare.count("\r")
    if not n_returns:
        return "\n"
    return "\r\n" if n_returns == bare.count("\n") == bare.count("\r\n") else None


def _evidence(text: str, lines: _Lines, *, whole: bool) -> Preview:
    evidence = Evidence(lines.dialect.names)
    is_plain = len(lines.parts) == 1
    rows = _plain_rows(lines, evidence.n_rows_at_once) if is_plain else _quoted_rows(text, lines)
    n_seen = 0
    while evidence.undecided and (chunk := list(islice(rows, evidence.n_rows_at_once))):
        n_seen += len(chunk)
        if n_seen > lines.n_rows:
            chunk.pop()  # it was cut off
        for at in evidence.undecided:
            cells = set(map(itemgetter(at), chunk)) - _MISSING
            evidence.add(at, cells, hold_no_number(cells), hold_no_date(cells))
        evidence.settle()
        if not whole:
            break
    # A quoted cell that is too long for Python's reader ends its rows early.
    saw_all = whole and (is_plain or n_seen == lines.n_rows)
    return evidence.preview(lines.n_rows if whole else None, saw_all=saw_all)


def _plain_rows(lines: _Lines, n_first: int) -> Iterator[list[str]]:
    """The rows; after the first, where many are equal, each once: an equal row proves nothing new."""
    body, delimiter = lines.body, lines.dialect.delimiter
    first, rest = body[:n_first], body[n_first:]
    are_many_equal = len(set(first)) < len(first) / 2
    for line in chain(first, _different(rest) if are_many_equal else rest):
        if line or len(lines.dialect.names) == 1:
            yield line.split(delimiter)


def _different(lines: Sequence[str]) -> Iterator[str]:
    yield from dict.fromkeys(lines)


def _quoted_rows(text: str, lines: _Lines) -> Iterator[list[str]]:
    found = records(text, lines.dialect.delimiter)
    next(found)
    n_columns = len(lines.dialect.names)
    if n_columns == 1:
        return (record or [""] for record in found)
    return (record for record in found if len(record) >= n_columns)

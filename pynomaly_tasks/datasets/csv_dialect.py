"""How delimited text is laid out: its delimiter, and the names in its first line. Loads no library.

Decided here and told to duckdb, whose own guess takes a ragged file for one wide column.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from pynomaly_tasks.datasets.source import check_utf8, refused

DELIMITERS = (",", ";", "\t", "|")
#: The layout is read from this much of a file.
HEAD_BYTES = 1 << 20
#: Cells that mean "no value", in every column. Other words are values.
MISSING_WORDS = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How the text is laid out."""

    delimiter: str
    names: tuple[str, ...]
    has_rows: bool  #: whether anything follows the first line
    warnings: tuple[str, ...] = ()


def read_dialect(source: str, head: bytes) -> Dialect:
    """The delimiter and the column names. head: the first HEAD_BYTES of a file. Raises InvalidDataset."""
    head = head[:HEAD_BYTES]
    cut = len(head) == HEAD_BYTES
    check_utf8(source, head, start=0, last=not cut)
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="ignore")
    if cut:
        # The last line may go on; a file of one line is looked at as far as it was read.
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1] or text
    delimiter = max(DELIMITERS, key=lambda candidate: _rank(text, candidate))
    found = records(text, delimiter)
    names = next(found, [])
    has_rows = any(found)
    if not any(name.strip() for name in names):
        raise refused(f"{source!r} has a first line without column names; it must name the columns")
    broken = next((name for name in names if "\n" in name or "\r" in name), None)
    if broken is not None:
        raise refused(f"{source!r} has a line break in the column name {broken[:60]!r}; rename it")
    if all(_is_number(name) for name in names):
        shown = delimiter.join(names)[:60]
        raise refused(
            f"{source!r} starts with a line of numbers ({shown}); add a first line that names the columns"
        )
    unnamed = [position for position, name in enumerate(names) if not name]
    for position in unnamed:
        names[position] = f"column_{position + 1}"
    warnings = [
        f"column {at + 1} has no name in the first line; it is called {names[at]!r}" for at in unnamed
    ]
    return Dialect(delimiter=delimiter, names=tuple(names), has_rows=has_rows, warnings=tuple(warnings[:20]))


def records(text: str, delimiter: str) -> Iterator[list[str]]:
    """The cells of each line of text, a blank line as []; ends early at a cell longer than 128 KiB."""
    # Lines end in \n, \r or \r\n alone: a cell may hold the other characters that split lines for str.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quotechar='"', doublequote=True)
    try:
        yield from reader
    except csv.Error:
        return


def wrong_field_count(line: int | None, n_found: int, n_columns: int) -> str:
    """What is said of a line that has more or fewer fields than the first names columns."""
    return (
        f"{_at(line)}has {n_found} fields where the first line names {n_columns} columns; "
        "quote values that hold the delimiter, or mend the line"
    )


def open_quote(line: int | None) -> str:
    """What is said of a line in which a quoted value starts that never ends."""
    return f'{_at(line)}a quoted value is never closed; double the quotes inside it ("")'


def _at(line: int | None) -> str:
    return "" if line is None else f"line {line}: "


def _rank(text: str, delimiter: str) -> tuple[bool, int]:
    """Whether the first records agree on more than one field, then the number of fields in the first."""
    counts = [len(record) for record, _ in zip(records(text, delimiter), range(50), strict=False) if record]
    n_fields = counts[0] if counts else 0
    return (n_fields > 1 and len(set(counts)) == 1, n_fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

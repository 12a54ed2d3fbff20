"""Loads delimited text: the first line names the columns, types come from the values.

The dialect is decided here and told to duckdb, whose own guess takes a ragged file for one wide
column. Types are guessed from the first rows; when a later row disagrees they are decided again from
all rows, so that the answer never depends on where a value stands.
"""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import duckdb

from pynomaly_tasks.datasets.column_types import (
    TABLE,
    Settled,
    StoredType,
    build_relation,
    guess_types,
    settle_columns,
)
from pynomaly_tasks.datasets.dataset import Relation
from pynomaly_tasks.datasets.engine import MIXED_LINE_ENDS, Engine, quoted_text
from pynomaly_tasks.datasets.limits import Limits
from pynomaly_tasks.datasets.source import Source, check_utf8, refused
from pynomaly_tasks.errors import InvalidDataset

DELIMITERS = (",", ";", "\t", "|")
HEAD_BYTES = 1 << 20
#: Cells that mean "no value", in every column. Other words are values.
MISSING_WORDS = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null")
# Enough to guess from; for a wide file fewer rows, or the guess costs more than the loading.
GUESS_ROWS = 20_480
GUESS_CELLS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How the text is laid out."""

    delimiter: str
    names: tuple[str, ...]
    has_rows: bool  #: whether anything follows the first line
    warnings: tuple[str, ...] = ()


def load(
    checked: Source, fd: int, engine: Engine, limits: Limits, checkpoint: Callable[[], None] | None
) -> Relation:
    """The rows in the engine's table. Raises InvalidDataset."""
    dialect = read_dialect(checked.source, fd)
    limits.check_names(checked.source, dialect.names)
    try:
        n_rows, settled, warnings = _load(engine, dialect, limits, checkpoint)
    except InvalidDataset:
        # duckdb says only that some byte is wrong; say which.
        _refuse_first_bad_byte(checked.source, fd)
        raise
    if n_rows == 0 and dialect.has_rows:
        # duckdb gives no rows, and no error, when the first lines end in ways it does not expect.
        raise refused(f"{checked.source!r} {MIXED_LINE_ENDS}")
    return build_relation(
        checked.source, dialect.names, n_rows, settled, limits, [*dialect.warnings, *warnings]
    )


def _load(
    engine: Engine, dialect: Dialect, limits: Limits, checkpoint: Callable[[], None] | None
) -> tuple[int, list[Settled], list[str]]:
    n_columns = len(dialect.names)
    if n_columns == 1:
        # duckdb skips a blank line after the lines it is told to skip; in one column that is a missing
        # value, and every later row number would be wrong. So the first line is read as a row, and left out.
        text = f"FROM ({_reader(engine, dialect, ['VARCHAR'], n_skipped=0)} OFFSET 1)"
        n_rows, settled, _ = _load_text(engine, text, n_columns, limits, checkpoint)
        return n_rows, settled, []
    text = _reader(engine, dialect, ["VARCHAR"] * n_columns)
    n_guess = max(100, min(GUESS_ROWS, GUESS_CELLS // n_columns))
    guessed = guess_types(engine, f"{text} LIMIT {n_guess}", n_columns, checkpoint)
    try:
        typed = _reader(engine, dialect, [type_.sql for type_ in guessed])
        engine.execute(f"CREATE TABLE {TABLE} AS SELECT * {typed} LIMIT {limits.n_rows + 1}", checkpoint)
        n_rows, settled = settle_columns(engine, guessed, checkpoint)
        if not any(column.is_doubtful for column in settled):
            return n_rows, settled, []
    except InvalidDataset as error:
        if not isinstance(error.__cause__, duckdb.ConversionException):
            raise
    n_rows, settled, types = _load_text(engine, text, n_columns, limits, checkpoint)
    warnings = [
        f"column {name!r} looks like {before.value} in the first {n_guess:,} rows, but not in all: "
        f"it is read as {after.value}"
        for name, before, after in zip(dialect.names, guessed, types, strict=True)
        if before is not after
    ]
    return n_rows, settled, warnings


def _load_text(
    engine: Engine, text: str, n_columns: int, limits: Limits, checkpoint: Callable[[], None] | None
) -> tuple[int, list[Settled], list[StoredType]]:
    """Decide the types from all rows, and load them."""
    types = guess_types(engine, text, n_columns, checkpoint)
    values = ", ".join(f"CAST(c{at} AS {type_.sql}) AS c{at}" for at, type_ in enumerate(types))
    engine.execute(
        f"CREATE OR REPLACE TABLE {TABLE} AS SELECT {values} {text} LIMIT {limits.n_rows + 1}", checkpoint
    )
    n_rows, settled = settle_columns(engine, types, checkpoint)
    return n_rows, settled, types


def read_dialect(source: str, fd: int) -> Dialect:
    """The delimiter and the column names. Raises InvalidDataset."""
    head = os.pread(fd, HEAD_BYTES, 0)
    cut = len(head) == HEAD_BYTES
    check_utf8(source, head, start=0, last=not cut)
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="ignore")
    lines = text.splitlines(keepends=True)
    if cut and len(lines) > 1:
        lines.pop()
    delimiter = max(DELIMITERS, key=lambda candidate: _rank(lines, candidate))
    records = _records(lines, delimiter)
    names = next(records, [])
    has_rows = any(records)
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


def _rank(lines: Sequence[str], delimiter: str) -> tuple[bool, int]:
    """Whether the first records agree on more than one field, then the number of fields in the first."""
    counts = [len(record) for record, _ in zip(_records(lines, delimiter), range(50), strict=False) if record]
    n_fields = counts[0] if counts else 0
    return (n_fields > 1 and len(set(counts)) == 1, n_fields)


def _records(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(iter(lines), delimiter=delimiter, quotechar='"', doublequote=True)
    try:
        yield from reader
    except csv.Error:
        return


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _reader(engine: Engine, dialect: Dialect, types: Sequence[str], n_skipped: int = 1) -> str:
    columns = ", ".join(f"'c{at}': '{type_}'" for at, type_ in enumerate(types))
    missing = ", ".join(quoted_text(word) for word in MISSING_WORDS)
    return (
        f"FROM read_csv({quoted_text(engine.file)}, auto_detect=false, header=false, skip={n_skipped}, "
        f"delim={quoted_text(dialect.delimiter)}, quote='\"', escape='\"', columns={{{columns}}}, "
        f"nullstr=[{missing}], strict_mode=true, null_padding=false, compression='none', encoding='utf-8')"
    )


def _refuse_first_bad_byte(source: str, fd: int) -> None:
    """Raise InvalidDataset when the file is not UTF-8, naming the offset."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    while True:
        chunk = os.pread(fd, HEAD_BYTES, offset)
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            at = offset - pending + error.start
            check_utf8(source, os.pread(fd, 8, at), start=at, last=True)
            raise
        if not chunk:
            return
        offset += len(chunk)

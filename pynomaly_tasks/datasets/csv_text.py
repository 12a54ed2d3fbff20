"""Loads delimited text: the first line names the columns, types come from the values.

Types are guessed from the first rows; when a later row disagrees they are decided again from all rows,
so that the answer never depends on where a value stands.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Sequence

import duckdb

from pynomaly_tasks.datasets.column_types import (
    TABLE,
    Settled,
    StoredType,
    build_relation,
    guess_types,
    settle_columns,
)
from pynomaly_tasks.datasets.csv_dialect import HEAD_BYTES, MISSING_WORDS, Dialect, read_dialect
from pynomaly_tasks.datasets.dataset import Relation
from pynomaly_tasks.datasets.engine import MIXED_LINE_ENDS, Engine, quoted_text
from pynomaly_tasks.datasets.limits import Limits
from pynomaly_tasks.datasets.source import Source, check_utf8, refused
from pynomaly_tasks.errors import InvalidDataset

# Enough to guess from; for a wide file fewer rows, or the guess costs more than the loading.
GUESS_ROWS = 20_480
GUESS_CELLS = 1_000_000


def load(
    checked: Source, fd: int, engine: Engine, limits: Limits, checkpoint: Callable[[], None] | None
) -> Relation:
    """The rows in the engine's table. Raises InvalidDataset."""
    dialect = read_dialect(checked.source, os.pread(fd, HEAD_BYTES, 0))
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

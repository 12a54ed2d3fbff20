"""Loads JSON lines: one object a line; the columns are the keys of all lines, in order of appearance."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from pynomaly_tasks.datasets.column_types import (
    TABLE,
    StoredType,
    build_relation,
    guess_types,
    settle_columns,
)
from pynomaly_tasks.datasets.dataset import Relation
from pynomaly_tasks.datasets.engine import Engine, quoted_name, quoted_text
from pynomaly_tasks.datasets.json_objects import object_of
from pynomaly_tasks.datasets.limits import Limits
from pynomaly_tasks.datasets.source import Source, check_utf8, refused
from pynomaly_tasks.errors import InvalidDataset

#: duckdb's own limit of one object.
MAX_LINE_BYTES = 16 << 20
_NUMBERS = {"BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT", "DOUBLE"}


def load(
    checked: Source, fd: int, engine: Engine, limits: Limits, checkpoint: Callable[[], None] | None
) -> Relation:
    """The rows in the engine's table. Raises InvalidDataset."""
    try:
        return _load(checked, engine, limits, checkpoint)
    except InvalidDataset:
        # duckdb miscounts lines, and does not name bytes that are not UTF-8; say which line it is.
        _refuse_first_bad_line(checked.source, fd)
        raise


def _load(checked: Source, engine: Engine, limits: Limits, checkpoint: Callable[[], None] | None) -> Relation:
    reader = (
        f"read_json({quoted_text(engine.file)}, format='newline_delimited', records='true', "
        "maximum_depth=1, sample_size=-1, map_inference_threshold=-1, compression='uncompressed')"
    )
    described = engine.execute(f"DESCRIBE FROM {reader}", checkpoint)
    names = [str(row[0]) for row in described]
    limits.check_names(checked.source, _exact_names(engine, names))
    # Each value as its text, and the JSON types that occur in each column.
    texts = ", ".join(f"json({quoted_name(name)}) ->> '$' AS c{at}" for at, name in enumerate(names))
    engine.execute(
        f"CREATE TABLE texts AS SELECT {texts} FROM {reader} LIMIT {limits.n_rows + 1}", checkpoint
    )
    seen = ", ".join(f"list(DISTINCT json_type({quoted_name(name)}))" for name in names)
    (json_types,) = engine.execute(f"SELECT {seen} FROM {reader}", checkpoint)
    guessed = guess_types(engine, "FROM texts", len(names), checkpoint)
    types, warnings = [], []
    for name, by_text, listed in zip(names, guessed, json_types, strict=True):
        assert isinstance(listed, list)
        type_, is_mixed = _agreed(by_text, {str(one) for one in listed if one not in (None, "NULL")})
        types.append(type_)
        if is_mixed:
            warnings.append(f"column {name!r} holds values of several JSON types: it is read as text")
    values = ", ".join(f"CAST(c{at} AS {type_.sql}) AS c{at}" for at, type_ in enumerate(types))
    engine.execute(f"CREATE TABLE {TABLE} AS SELECT {values} FROM texts", checkpoint)
    engine.execute("DROP TABLE texts")
    n_rows, settled = settle_columns(engine, types, checkpoint)
    return build_relation(checked.source, names, n_rows, settled, limits, warnings)


def _agreed(by_text: StoredType, json_types: set[str]) -> tuple[StoredType, bool]:
    """A string stays text though it reads as a number; and whether the column mixes types."""
    if not json_types or json_types <= _NUMBERS:
        return by_text, False
    if json_types == {"VARCHAR"}:
        return by_text if by_text is StoredType.INSTANT else StoredType.TEXT, False
    if json_types == {"BOOLEAN"}:
        return StoredType.FLAG, False
    return StoredType.TEXT, len(json_types) > 1


def _exact_names(engine: Engine, names: list[str]) -> list[str]:
    """The keys as they stand in the file: duckdb renames A beside a to A_1."""
    folded = {name.lower() for name in names}
    if not any(re.sub(r"_\d+$", "", name) in folded - {name} for name in folded):
        return names
    keys = engine.execute(
        "SELECT DISTINCT unnest(json_keys(json)) FROM "
        f"read_ndjson_objects({quoted_text(engine.file)}, compression='uncompressed') ORDER BY 1"
    )
    return [str(row[0]) for row in keys]


def _refuse_first_bad_line(source: str, fd: int) -> None:
    """Raise InvalidDataset for the first line that is not a JSON object, if there is one."""
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        offset = 0
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
            if len(line) > MAX_LINE_BYTES:
                raise refused(
                    f"{source!r} line {number}: is longer than {MAX_LINE_BYTES >> 20} MiB; split it"
                )
            check_utf8(source, line, start=offset, last=True)
            offset += len(line)
            object_of(source, number, line)

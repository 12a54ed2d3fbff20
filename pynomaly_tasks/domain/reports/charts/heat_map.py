"""Correlations as a triangle of coloured cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pynomaly_tasks.domain.reports.json_reader import items, number, texts

CELL = 34.0
N_STEPS = 5  #: shades on each side of zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One pair of columns."""

    x: float
    y: float
    shade: str  #: n5 (-1) to n1, z (about 0), p1 to p5 (+1)
    label: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two columns that go together, or against one another."""

    first: str
    second: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """The lower triangle of a correlation matrix, and its strongest pairs."""

    width: float
    height: float
    label_width: float
    cells: Sequence[Cell]
    rows: Sequence[tuple[float, str]]  #: where a row's name stands, and the name
    columns: Sequence[tuple[float, float, str]]  #: x and y of a column's name
    strongest: Sequence[Pair]
    n_left_out: int  #: columns that did not fit


def draw_heat_map(correlations: Mapping[str, Any], n_columns: int) -> HeatMap | None:
    """The ``n_columns`` columns that correlate most with any other; None for fewer than two."""
    names, matrix = _known(correlations)
    n = len(names)
    if n < 2:
        return None
    strength = [max((abs(v) for j, v in enumerate(row) if v is not None and j != i), default=0.0)
                for i, row in enumerate(matrix)]  # fmt: skip
    kept = sorted(sorted(range(n), key=lambda i: -strength[i])[:n_columns])
    label_width = min(160.0, 7.2 * max(len(_short(names[i])) for i in kept) + 12)
    cells = [
        _cell(label_width, i, j, names[kept[i]], names[kept[j]], matrix[kept[i]][kept[j]])
        for i in range(len(kept))
        for j in range(i)
    ]
    pairs = sorted(
        (
            Pair(first=names[j], second=names[i], value=value)
            for i in kept
            for j in kept
            if j < i and (value := matrix[i][j]) is not None
        ),
        key=lambda pair: -abs(pair.value),
    )
    # Names of columns stand at the head of their cells, on the diagonal.
    return HeatMap(
        width=label_width + CELL * (len(kept) - 1) + label_width / 2,
        height=CELL * len(kept) + 4,
        label_width=label_width,
        cells=cells,
        rows=[(CELL * i + 22, _short(names[kept[i]])) for i in range(1, len(kept))],
        columns=[
            (label_width + CELL * j + 6, CELL * j + 24, _short(names[kept[j]])) for j in range(len(kept) - 1)
        ],
        # Of k pairs, the strongest of all, both columns are among the 2 k that correlate most.
        strongest=pairs[: n_columns // 2],
        n_left_out=n - len(kept),
    )


def _known(correlations: Mapping[str, Any]) -> tuple[list[str], list[list[float | None]]]:
    """The matrix without the columns that correlate with none, such as constant ones."""
    names = texts(correlations, "columns")
    matrix = [
        [number(value) for value in row] if isinstance(row, list | tuple) else []
        for row in items(correlations, "matrix")
    ]
    n = len(names)
    if len(matrix) != n or any(len(row) != n for row in matrix):
        return [], []
    kept = [i for i in range(n) if any(matrix[i][j] is not None for j in range(n) if j != i)]
    return [names[i] for i in kept], [[matrix[i][j] for j in kept] for i in kept]


def _cell(label_width: float, i: int, j: int, row: str, column: str, value: float | None) -> Cell:
    told = "not known" if value is None else f"{value:.2f}"
    return Cell(
        x=label_width + CELL * j,
        y=CELL * i,
        shade=_shade(value),
        label="" if value is None else _label(value),
        hint=f"{row} and {column}: {told}",
    )


def _label(value: float) -> str:
    """Two decimals without the zero before the point, and no sign where they are all zero."""
    told = f"{value:+.2f}".replace("-0.00", "0").replace("+0.00", "0").removeprefix("+")
    return told.replace("0.", ".").replace("-", "\N{MINUS SIGN}")


def _shade(value: float | None) -> str:
    if value is None:
        return "u"
    step = min(N_STEPS, round(abs(value) * N_STEPS))
    return "z" if step == 0 else f"{'n' if value < 0 else 'p'}{step}"


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"

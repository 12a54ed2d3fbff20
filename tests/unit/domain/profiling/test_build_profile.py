"""Profiles against numbers worked out independently with numpy and plain Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pynomaly_tasks.domain.profiling import ProfiledColumn, ProfileOptions, build_profile, values


@dataclass(frozen=True)
class MemoryTable:
    """A table of a duckdb in memory."""

    arrow: pa.Table
    columns: Sequence[ProfiledColumn]

    @property
    def n_rows(self) -> int:
        return self.arrow.num_rows

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.register("data", self.arrow)
            return connection.execute(sql).fetchall()

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from self.arrow.select(columns).to_batches(max_chunksize=333)

    def sample(self, n_rows: int, columns: Sequence[str]) -> pa.Table:
        rows = np.sort(np.random.default_rng(0).choice(self.n_rows, n_rows, replace=False))
        return self.arrow.select(columns).take(rows)


def table(**columns: list[Any]) -> MemoryTable:
    """Kinds are told from the values."""
    arrow = pa.table(columns)
    kinds = []
    for field in arrow.schema:
        if pa.types.is_boolean(field.type):
            kinds.append("boolean")
        elif pa.types.is_timestamp(field.type):
            kinds.append("datetime")
        elif pa.types.is_string(field.type):
            kinds.append("text")
        else:
            kinds.append("number")
    stored = ["BIGINT" if pa.types.is_integer(field.type) else "DOUBLE" for field in arrow.schema]
    profiled = [
        ProfiledColumn(name=field.name, kind=kind, type=type_)
        for field, kind, type_ in zip(arrow.schema, kinds, stored, strict=True)
    ]
    return MemoryTable(arrow, profiled)


def profile(one: MemoryTable, **options: int) -> dict[str, Any]:
    return build_profile(one, ProfileOptions(**options), lambda *_: None)


def column(one: MemoryTable, name: str, **options: int) -> dict[str, Any]:
    return next(c for c in profile(one, **options)["columns"] if c["name"] == name)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(3).normal(50, 7, 5_000)


def test_moments_and_quantiles_are_those_of_numpy(noise: np.ndarray) -> None:
    found = column(table(x=[*noise.tolist(), None]), "x")

    assert found["mean"] == pytest.approx(noise.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(noise.std(ddof=1), rel=1e-12)
    assert (found["min"], found["max"]) == (noise.min(), noise.max())
    assert list(found["quantiles"]) == ["0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99"]
    assert list(found["quantiles"].values()) == pytest.approx(
        np.quantile(noise, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]).tolist(), rel=1e-12
    )
    assert found["n_missing"] == 1
    assert found["missing_share"] == 1 / 5_001


def test_histogram_is_that_of_numpy_over_all_batches(noise: np.ndarray) -> None:
    counts, edges = np.histogram(noise, bins=13)

    found = column(table(x=noise.tolist()), "x", n_bins=13)["histogram"]

    assert found["counts"] == counts.tolist()
    assert found["edges"] == pytest.approx(edges.tolist())


def test_correlations_use_the_rows_that_have_both_values() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(1e6, 1, 4_000)
    b = -2 * a + rng.normal(0, 1, 4_000)
    c = rng.normal(size=4_000)
    a[:500], b[200:900] = np.nan, np.nan
    both = ~np.isnan(a) & ~np.isnan(b)
    one = table(**{n: [None if math.isnan(v) else v for v in x] for n, x in (("a", a), ("b", b), ("c", c))})

    found = profile(one)["correlations"]

    assert found["columns"] == ["a", "b", "c"]
    assert found["matrix"][0][1] == pytest.approx(np.corrcoef(a[both], b[both])[0, 1], abs=1e-9)
    assert found["matrix"][0][0] == pytest.approx(1.0)
    assert found["matrix"][1][2] == found["matrix"][2][1]


def test_constant_and_empty_columns_have_no_correlation_and_say_what_they_are() -> None:
    one = table(
        x=[1.0, 2.0, 3.0, 4.0], same=[0.1 + 0.2] * 4, none=pa.array([None] * 4, pa.float64()).to_pylist()
    )
    one = MemoryTable(one.arrow.set_column(2, "none", pa.array([None] * 4, pa.float64())), one.columns)

    found = profile(one)

    assert found["correlations"]["matrix"] == [[1.0, None, None], [None, None, None], [None, None, None]]
    same, none = found["columns"][1:]
    assert same["is_constant"] is True
    assert sum(same["histogram"]["counts"]) == 4
    assert (none["n_missing"], none["n_distinct"], none["is_constant"]) == (4, 0, False)
    assert none["min"] is none["mean"] is none["histogram"] is None
    assert set(none["quantiles"].values()) == {None}


def test_top_values_are_counted_exactly_with_ties_in_order_of_value() -> None:
    words = ["b", "a", "c", "a", "b", "d", None]

    found = column(table(w=words), "w", top_n_values=3)

    assert found["top_values"] == [
        {"value": "a", "count": 2},
        {"value": "b", "count": 2},
        {"value": "c", "count": 1},
    ]
    assert found["n_distinct"] == len(Counter(w for w in words if w))


def test_duplicate_rows_are_those_that_repeat_an_earlier_one() -> None:
    one = table(a=[1, 1, 1, 2, None, None], b=["x", "x", "y", "x", None, None])

    assert profile(one)["n_duplicate_rows"] == 2


def test_infinite_and_huge_values_do_not_spoil_the_rest() -> None:
    one = table(x=[1.0, 2.0, float("inf"), float("-inf")], huge=[1e308, -1e308, 1e308, 5.0])

    found = profile(one)

    assert found["columns"][0]["mean"] == 1.5
    assert found["columns"][0]["max"] == 2.0
    assert sum(found["columns"][0]["histogram"]["counts"]) == 2
    assert any("infinite values of 'x'" in warning for warning in found["warnings"])
    assert found["columns"][1]["std"] is None
    assert found["columns"][1]["histogram"] is None


def test_names_and_values_with_markup_are_kept_and_long_ones_cut() -> None:
    name = '=cmd()"<b>'

    found = column(table(**{name: ["<script>", "<script>", "z" * 5_000]}), name)

    assert found["top_values"][0] == {"value": "<script>", "count": 2}
    assert len(found["max"]) == 200


def test_dates_and_booleans_are_described_in_their_own_terms() -> None:
    one = MemoryTable(
        pa.table(
            {
                "t": pa.array([0, 3_600_000_000, None, 0], pa.timestamp("us")),
                "b": pa.array([True, False, True, True]),
            }
        ),
        [
            ProfiledColumn(name="t", kind="datetime", type="TIMESTAMP"),
            ProfiledColumn(name="b", kind="boolean", type="BOOLEAN"),
        ],
    )

    t, b = profile(one)["columns"]

    assert (t["min"], t["max"]) == ("1970-01-01T00:00:00", "1970-01-01T01:00:00")
    assert t["top_values"][0] == {"value": "1970-01-01T00:00:00", "count": 2}
    assert (b["mean"], b["n_distinct"]) == (0.75, 2)


def test_progress_counts_up_to_its_total(noise: np.ndarray) -> None:
    seen: list[tuple[int, int, str]] = []

    build_profile(table(x=noise.tolist(), y=["a"] * 5_000), ProfileOptions(), lambda *step: seen.append(step))

    assert [current for current, _, _ in seen] == list(range(7))
    assert {total for _, total, _ in seen} == {6}


@pytest.fixture
def treat_as_long(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The limits that a table of some million rows reaches."""

    def lower() -> None:
        monkeypatch.setattr(values, "ALWAYS_EXACT_ROWS", 100)
        monkeypatch.setattr(values, "MAX_COUNTED_NUMBERS", 1_000)
        monkeypatch.setattr(values, "EXACT_QUANTILE_ROWS", 100)
        monkeypatch.setattr(values, "SAMPLED_QUANTILE_ROWS", 20_000)
        monkeypatch.setattr(values, "KEPT_HASHES", 20_000)

    return lower


@pytest.mark.large
def test_estimates_of_long_tables_are_close_repeatable_and_said_to_be_estimates(
    treat_as_long: Callable[[], None],
) -> None:
    rng = np.random.default_rng(1)
    x = rng.exponential(size=200_000)
    one = table(x=x.tolist(), i=list(range(200_000)), k=[f"v{n % 7}" for n in range(200_000)])
    shuffled = MemoryTable(one.arrow.take(rng.permutation(200_000)), one.columns)
    treat_as_long()

    found, again, other_order = profile(one), profile(one), profile(shuffled)

    assert found == again
    for at in (0, 1):
        assert found["columns"][at]["n_distinct"] == pytest.approx(200_000, rel=0.02)
        assert found["columns"][at]["n_distinct"] == other_order["columns"][at]["n_distinct"]
        assert found["columns"][at]["top_values"] == []
    assert found["columns"][2]["n_distinct"] == 7
    assert found["columns"][0]["quantiles"]["0.5"] == pytest.approx(np.median(x), rel=0.03)
    assert any("n_distinct of 'x', 'i' is an estimate" in warning for warning in found["warnings"])

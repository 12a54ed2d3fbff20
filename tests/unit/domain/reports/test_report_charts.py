from __future__ import annotations

import doctest
import importlib
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pynomaly_tasks.domain.reports.charts.heat_map import draw_heat_map
from pynomaly_tasks.domain.reports.charts.histogram import draw_histogram
from pynomaly_tasks.domain.reports.charts.points import read_points
from pynomaly_tasks.domain.reports.charts.scale import Scale, number_ticks, time_ticks
from pynomaly_tasks.domain.reports.charts.timeline import draw_timeline


@pytest.mark.parametrize("name", ["words", "csv_export", "charts.paths"])
def test_examples_in_docstrings_hold(name: str) -> None:
    module = importlib.import_module(f"pynomaly_tasks.domain.reports.{name}")

    outcome = doctest.testmod(module)

    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 10, ["0", "2", "4", "6", "8", "10"]),
        (0.1, 0.4, ["0.1", "0.2", "0.3", "0.4"]),
        (-1, 1, ["-1.0", "-0.5", "0", "0.5", "1.0"]),
        (0, 40_000, ["0", "10,000", "20,000", "30,000", "40,000"]),
        (0, 1e-7, ["0", "2e-08", "4e-08", "6e-08", "8e-08", "1e-07"]),
        (5, 5, []),
    ],
)
def test_numbers_on_an_axis_are_round(low: float, high: float, labels: list[str]) -> None:
    ticks = number_ticks(Scale(data_min=low, data_max=high, start=0, end=100))

    assert [tick.label for tick in ticks] == labels


@example(low=450359962737050.25, span=0.25, n=5)  # a step finer than what a float can tell apart there
@given(low=st.floats(-1e15, 1e15), span=st.floats(1e-3, 1e15), n=st.integers(2, 10))
def test_an_axis_has_a_readable_number_of_ticks_inside_it(low: float, span: float, n: int) -> None:
    scale = Scale(data_min=low, data_max=low + span, start=0, end=1_000)

    ticks = number_ticks(scale, n)

    assert len(ticks) <= n + 1
    assert all(-0.1 <= tick.at <= 1_000.1 for tick in ticks)


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (timedelta(minutes=4), ["31 Dec 23:58:00", "23:58:30", "23:59:00", "23:59:30", "1 Jan 00:00:00"]),
        (timedelta(hours=7), ["1 Jan 00:00", "01:00", "02:00", "03:00", "04:00", "05:00", "06:00"]),
        (timedelta(days=6), ["1 Jan 2014", "2 Jan", "3 Jan", "4 Jan", "5 Jan", "6 Jan"]),
        (timedelta(days=210), ["Jan 2014", "Feb 2014", "Mar 2014", "Apr 2014", "May 2014", "Jun 2014", "Jul 2014"]),
        (timedelta(days=3_650), ["2014", "2016", "2018", "2020", "2022"]),
    ],
)  # fmt: skip
def test_instants_on_an_axis_are_round(span: timedelta, labels: list[str]) -> None:
    start = datetime(2013, 12, 31, 23, 58, tzinfo=UTC).timestamp()
    scale = Scale(data_min=start, data_max=start + span.total_seconds(), start=0, end=100)

    ticks = time_ticks(scale)

    assert [tick.label for tick in ticks][: len(labels)] == labels
    assert len(ticks) <= 10
    assert all(a.at < b.at for a, b in pairwise(ticks))


def test_bars_of_a_histogram_reach_from_edge_to_edge() -> None:
    drawn = draw_histogram({"edges": [0, 5, 10], "counts": [1, 4]})

    assert drawn is not None
    assert drawn.bars == "M0.0 34v-8.5H69.2V34zM70.0 34v-34.0H139.2V34z"


@pytest.mark.parametrize(
    "odd", [{}, {"edges": [0], "counts": []}, {"edges": [0, 1], "counts": [0]}, {"edges": [0, None], "counts": [1]}]
)  # fmt: skip
def test_what_is_no_histogram_is_not_drawn(odd: dict[str, object]) -> None:
    assert draw_histogram(odd) is None


def test_columns_that_correlate_with_none_are_not_drawn() -> None:
    heat_map = draw_heat_map(
        {
            "columns": ["a", "constant", "b"],
            "matrix": [[1, None, -0.71], [None, None, None], [-0.71, None, 1]],
        },
        16,
    )

    assert heat_map is not None
    (cell,) = heat_map.cells
    assert (cell.shade, cell.label, cell.hint) == ("n4", "\N{MINUS SIGN}.71", "b and a: -0.71")
    assert [(pair.first, pair.second, pair.value) for pair in heat_map.strongest] == [("a", "b", -0.71)]


def test_points_are_drawn_in_order_of_time_with_gaps_and_every_anomaly() -> None:
    plot = {
        "kind": "series",
        "x": ["2014-01-03", "2014-01-01", "2014-01-02", "2014-01-04"],
        "y": [3, 1, None, 4],
        "score": [0.1, 0.2, 0.3, 9.0],
        "anomaly": [False, False, False, True],
        "y_label": "load",
    }

    points = read_points(plot, 100)
    assert points is not None
    chart = draw_timeline(points, {points.at[3]: 1}, threshold=5.0)

    values, scores = chart.panels
    assert points.y == [1, None, 3, 4]
    assert values.line.count("M") == 2
    assert values.anomalies.count("M") == scores.anomalies.count("M") == 1
    assert [mark.hint for mark in scores.marks] == ["#1, 2014-01-04: 9, score 9"]
    assert scores.threshold_at is not None
    assert scores.top < scores.threshold_at < scores.bottom


def test_thinned_points_keep_the_anomalies() -> None:
    n = 5_000
    plot = {
        "kind": "scores",
        "x": list(range(n)),
        "score": [1.0] * n,
        "anomaly": [i % 500 == 7 for i in range(n)],
    }

    points = read_points(plot, 100)

    assert points is not None
    assert sum(points.anomaly) == 10
    assert len(points.at) <= 110

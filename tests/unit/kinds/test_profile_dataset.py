"""Profiling as a job: the request's limits, the result's shape, and stopping."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from pynomaly_tasks.datasets import DatasetOpener
from pynomaly_tasks.errors import InvalidDataset, JobCancelled
from pynomaly_tasks.kinds.profile_dataset import ProfileDatasetRequest, perform

REAL_DATA = Path(__file__).parents[2] / "data" / "profiling"


@dataclass
class RecordingContext:
    """A running attempt that writes down what it is told."""

    scratch: Path
    job_id: str = "job"
    attempt: int = 1
    seen: list[tuple[int, int, str]] = field(default_factory=list)
    checkpoint: Callable[[], None] = lambda: None

    def progress(self, current: int, total: int, status: str) -> None:
        self.seen.append((current, total, status))


@pytest.fixture
def context(tmp_path: Path) -> RecordingContext:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return RecordingContext(scratch)


@pytest.fixture
def services(tmp_path: Path) -> Any:
    return SimpleNamespace(datasets=DatasetOpener([REAL_DATA], 2_000, 10**9, 256, tmp_path / "temporary"))


def test_profile_of_real_flights_matches_plain_python(context: RecordingContext, services: Any) -> None:
    rows = [line.split(",") for line in (REAL_DATA / "flights.csv").read_text().splitlines()]
    delays = [
        int(row[rows[0].index("dep_delay")])
        for row in rows[1:]
        if row[rows[0].index("dep_delay")] not in ("", "NA")
    ]

    outcome = perform(context, ProfileDatasetRequest(dataset="flights.csv"), services)

    detail = outcome.detail
    delay = next(column for column in detail["columns"] if column["name"] == "dep_delay")
    assert detail["dataset"]["n_rows"] == detail["n_rows"] == len(rows) - 1
    assert delay["n_missing"] == len(rows) - 1 - len(delays)
    assert delay["mean"] == pytest.approx(sum(delays) / len(delays))
    assert delay["n_distinct"] == len(set(delays))
    assert detail["n_duplicate_rows"] == len(rows) - 1 - len({tuple(row) for row in rows[1:]})
    assert outcome.anomalies_found is None
    assert context.seen[-1] == (23, 23, "done")


def test_detail_and_file_have_the_promised_keys_and_agree(context: RecordingContext, services: Any) -> None:
    outcome = perform(context, ProfileDatasetRequest(dataset="seattle-weather.csv"), services)

    assert set(outcome.detail) == {
        "dataset",
        "n_rows",
        "n_columns",
        "n_duplicate_rows",
        "columns",
        "correlations",
        "timing_s",
        "versions",
        "warnings",
    }
    assert set(outcome.detail["columns"][0]) == {
        "name",
        "type",
        "kind",
        "n_missing",
        "missing_share",
        "n_distinct",
        "is_constant",
        "min",
        "max",
        "mean",
        "std",
        "quantiles",
        "histogram",
        "top_values",
    }
    assert json.loads(outcome.files["profile.json"].read_bytes()) == orjson.loads(
        orjson.dumps(outcome.detail)
    )


def test_same_request_twice_gives_the_same_profile(context: RecordingContext, services: Any) -> None:
    request = ProfileDatasetRequest(dataset="airports.csv", top_n_values=3, n_bins=7)

    first, second = (perform(context, request, services).detail for _ in range(2))

    assert {**first, "timing_s": None} == {**second, "timing_s": None}


def test_chosen_columns_alone_are_profiled(context: RecordingContext, services: Any) -> None:
    request = ProfileDatasetRequest(dataset="seattle-weather.csv", columns=("wind", "date"))

    assert [column["name"] for column in perform(context, request, services).detail["columns"]] == [
        "wind",
        "date",
    ]


def test_column_that_is_not_there_is_refused(context: RecordingContext, services: Any) -> None:
    with pytest.raises(InvalidDataset, match="no column 'sun'; it has 'date'"):
        perform(context, ProfileDatasetRequest(dataset="seattle-weather.csv", columns=("sun",)), services)


def test_cancelled_job_stops_and_leaves_no_temporary_files(
    context: RecordingContext, services: Any, tmp_path: Path
) -> None:
    def cancelled() -> None:
        raise JobCancelled("no longer needed")

    context.checkpoint = cancelled

    with pytest.raises(JobCancelled):
        perform(context, ProfileDatasetRequest(dataset="flights.csv"), services)

    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        {"dataset": ""},
        {"dataset": "x" * 4_097},
        {"dataset": "x", "n_bins": 1},
        {"dataset": "x", "n_bins": 201},
        {"dataset": "x", "top_n_values": 0},
        {"dataset": "x", "seed": -1},
        {"dataset": "x", "columns": []},
        {"dataset": "x", "columns": ["a", "a"]},
        {"dataset": "x", "column": ["a"]},
    ],
)
def test_request_out_of_its_limits_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProfileDatasetRequest.model_validate(wrong)

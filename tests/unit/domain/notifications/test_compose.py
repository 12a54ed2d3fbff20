from __future__ import annotations

from typing import Any

import pytest

from pynomaly_tasks.domain.notifications.compose import MAX_BODY, MAX_SUBJECT, compose


def detection(n_anomalies: int = 1, **changes: Any) -> dict[str, Any]:
    anomaly = {
        "rank": 1, "row": 17, "timestamp": None, "score": 3.14159,
        "contributions": [
            {"column": "delay", "value": 301, "direction": "high"},
            {"column": "carrier", "value": None, "direction": "missing"},
            {"column": "third", "value": 1, "direction": "low"},
        ],
    }  # fmt: skip
    return {
        "dataset": {"name": "flights"}, "detector": {"name": "ecod"}, "n_scored": 1_000, "n_anomalies": n_anomalies,
        "anomalies": [anomaly][:n_anomalies], "warnings": [], **changes,
    }  # fmt: skip


def test_an_anomaly_is_told_with_its_two_strongest_reasons() -> None:
    text = compose([("job-1", {}, detection())])

    assert text.subject == "1 anomaly in flights"
    assert text.body.splitlines() == [
        "1 anomaly in 1,000 rows of flights (ecod).",
        "1. row 17: score 3.142, delay high (301), carrier missing (missing)",
        "Job job-1",
    ]


def test_finding_nothing_is_told_too() -> None:
    text = compose([("job-1", {}, detection(0, warnings=["a", "b"]))])

    assert text.subject == "No anomalies in flights"
    assert "2 warnings: see the result." in text.body


def test_a_profile_is_told_by_its_size_and_gaps() -> None:
    columns = [{"name": "a", "n_missing": 0}, {"name": "b", "n_missing": 3}]

    text = compose(
        [("job-1", {}, {"dataset": {"name": "cities"}, "n_rows": 5, "columns": columns, "warnings": ["w"]})]
    )

    assert text.subject == "Profile of cities: 5 rows, 2 columns"
    assert "1 column has missing values." in text.body
    assert "1 warning: see the result." in text.body


def test_any_other_job_is_told_by_its_summary() -> None:
    text = compose([("job-1", {"job_id": "job-1", "rows_written": 12}, {})])

    assert text.subject == "Job job-1 is done"
    assert text.body == "rows_written: 12\nJob job-1"


def test_several_jobs_are_told_in_one_message() -> None:
    text = compose([("a", {}, detection()), ("b", {}, {})])

    assert text.subject == "2 jobs are done"
    assert text.body.split("\n\n")[1].startswith("Job b is done")


@pytest.mark.parametrize("name", ["x" * 10_000, "a\nSubject: spam\r\nb", "a\x00\u202eb"])
def test_a_name_can_neither_fill_the_message_nor_add_a_line(name: str) -> None:
    text = compose([("job-1", {}, detection(dataset={"name": name}))])

    assert len(text.subject) <= MAX_SUBJECT
    assert len(text.body) <= MAX_BODY
    assert text.subject.isprintable()
    assert len(text.body.splitlines()) == 3


def test_many_jobs_still_make_a_message_of_limited_length() -> None:
    text = compose([(str(n), {f"key {k}": "v" * 500 for k in range(50)}, {}) for n in range(20)])

    assert len(text.body) == MAX_BODY

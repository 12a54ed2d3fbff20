from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pynomaly_tasks.core.job import JobResult
from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.kinds.generate_report import GenerateReportRequest, perform
from pynomaly_tasks.kinds.services import Services


@dataclass
class Context:
    scratch: Path
    job_id: str = "report-1"
    attempt: int = 1
    told: list[tuple[int, int, str]] = field(default_factory=list)

    def progress(self, current: int, total: int, status: str) -> None:
        self.told.append((current, total, status))

    def checkpoint(self) -> None: ...


@dataclass
class Shelf:
    results: Mapping[str, Mapping[str, Any]]

    def get_result(self, job_id: str) -> JobResult:
        if job_id not in self.results:
            raise NotFound("no row")
        return JobResult(
            job_id=job_id,
            attempt=1,
            summary={"job_id": job_id},
            detail=self.results[job_id],
            artifacts={},
            created_at=datetime(2026, 11, 22, tzinfo=UTC),
        )


FOUND = {
    "dataset": {"name": "taxi"},
    "detector": {"name": "ecod"},
    "n_scored": 10,
    "n_anomalies": 1,
    "anomalies": [
        {"rank": 1, "row": 3, "timestamp": None, "score": 2.5, "values": {"x": 1}, "contributions": []}
    ],
    "plot": {"kind": "scores", "x": [1, 3], "y": [None, None], "score": [0.5, 2.5], "anomaly": [False, True]},
}


def world() -> Services:
    return Services(
        datasets=None,  # type: ignore[arg-type]  # no dataset is opened
        results=Shelf({"job-1": FOUND, "job-2": {**FOUND, "n_anomalies": 4}, "job-3": {"rows": 7}}),
        artifacts=None,  # type: ignore[arg-type]  # no file is read
        channels=None,  # type: ignore[arg-type]  # nothing is sent
        deliveries=None,  # type: ignore[arg-type]  # nothing is sent
        webhooks=None,  # type: ignore[arg-type]  # nothing is posted
    )


def test_three_files_and_a_summary_are_left(tmp_path: Path) -> None:
    context = Context(tmp_path)
    request = GenerateReportRequest.model_validate({"job": {"job_id": "job-1", "status": "succeeded"}})

    outcome = perform(context, request, world())

    assert {name: path.parent for name, path in outcome.files.items()} == dict.fromkeys(
        ("report.html", "report.json", "anomalies.csv"), tmp_path
    )
    assert "<h1><bdi>Anomalies in taxi</bdi></h1>" in outcome.files["report.html"].read_text()
    assert json.loads(outcome.files["report.json"].read_bytes())["jobs"][0]["detail"] == FOUND
    assert outcome.files["anomalies.csv"].read_text().splitlines()[1] == "job-1,taxi,1,3,,2.5,,1"
    assert outcome.anomalies_found == 1
    assert outcome.summary == {
        "report": "report.html",
        "source_job_id": "job-1",
        "source_job_ids": ["job-1"],
        "title": "Anomalies in taxi",
    }
    assert context.told[-1] == (3, 3, "done")


def test_a_chord_of_jobs_becomes_one_report(tmp_path: Path) -> None:
    request = GenerateReportRequest.model_validate(
        {"job": [{"job_id": "job-1"}, {"job_id": "job-2"}, "job-3"], "title": "All three"}
    )

    outcome = perform(Context(tmp_path), request, world())

    html = outcome.files["report.html"].read_text()
    assert html.count('<section class="job"') == 3
    assert "<title>All three</title>" in html
    assert outcome.anomalies_found == 5


def test_a_job_without_a_result_is_not_found_and_not_tried_again(tmp_path: Path) -> None:
    request = GenerateReportRequest(job=("job-9",))

    with pytest.raises(NotFound, match=r"job: job-9 has no result.*chain the report after it") as refused:
        perform(Context(tmp_path), request, world())

    assert not refused.value.retryable
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "field_name"),
    [
        ({}, "job"),
        ({"job": []}, "job"),
        ({"job": None}, "job"),
        ({"job": 3.5}, "job"),
        ({"job": ""}, "job"),
        ({"job": {"id": "job-1"}}, "job"),
        ({"job": [["job-1"]]}, "job"),
        ({"job": "x" * 256}, "job"),
        ({"job": [str(n) for n in range(21)]}, "job"),
        ({"job": "job-1", "title": ""}, "title"),
        ({"job": "job-1", "title": "x" * 201}, "title"),
        ({"job": "job-1", "format": "pdf"}, "format"),
    ],
)
def test_what_is_wrong_is_refused_by_the_name_of_its_field(wrong: dict[str, Any], field_name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        GenerateReportRequest.model_validate(wrong)

    assert {problem["loc"][0] for problem in refused.value.errors()} == {field_name}

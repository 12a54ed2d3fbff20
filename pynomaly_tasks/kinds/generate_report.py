"""generate_report: one HTML file, JSON and CSV on what one or more jobs found."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pynomaly_tasks.core.job import JobResult
from pynomaly_tasks.core.work_events import ReportReady, file_path, result_path
from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.jobs.context import JobContext, Outcome
from pynomaly_tasks.kinds.job_reference import JobReferences
from pynomaly_tasks.kinds.services import Results, Services


class GenerateReportRequest(BaseModel):
    """Which jobs to report on."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    POSITIONAL: ClassVar[tuple[str, ...]] = ("job",)

    job: JobReferences = Field(
        min_length=1, description="A job id, a job's summary, or a list of those; at most 20."
    )
    title: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Unset: written from what was looked at.",
    )


def perform(context: JobContext, request: GenerateReportRequest, services: Services) -> Outcome:
    """Write report.html, report.json and anomalies.csv. Raises NotFound for a job without a result."""
    from pynomaly_tasks.domain.reports import Source, build_report

    n_steps = len(request.job) + 2
    sources = []
    for number, job_id in enumerate(request.job):
        context.progress(number, n_steps, "reading results")
        result = _result(job_id, services.results)
        sources.append(
            Source(
                job_id=result.job_id,
                summary=result.summary,
                detail=result.detail,
                finished_at=result.created_at,
            )
        )
    context.progress(n_steps - 2, n_steps, "drawing")
    report = build_report(sources, title=request.title)
    context.progress(n_steps - 1, n_steps, "writing")
    files = {
        "report.html": report.html.encode(),
        "report.json": report.json,
        "anomalies.csv": report.csv.encode(),
    }
    for name, content in files.items():
        (context.scratch / name).write_bytes(content)
    context.progress(n_steps, n_steps, "done")
    summary = {
        "report": "report.html",
        "source_job_id": request.job[0],
        "source_job_ids": list(request.job),
        "title": report.title,
    }
    return Outcome(
        anomalies_found=report.n_anomalies,
        summary=summary,
        detail={**summary, "size_bytes": {name: len(content) for name, content in files.items()}},
        files={name: context.scratch / name for name in files},
        events=[
            ReportReady(
                job_id=context.job_id,
                result=result_path(context.job_id),
                title=report.title,
                source_job_ids=request.job,
                n_anomalies=report.n_anomalies,
                files={name: file_path(context.job_id, name) for name in files},
            )
        ],
    )


def _result(job_id: str, results: Results) -> JobResult:
    try:
        return results.get_result(job_id)
    except NotFound:
        raise NotFound(
            f"job: {job_id} has no result; it has not succeeded, or its result was cleaned up. "
            "Wait for it, or chain the report after it: detect_anomalies.s(...) | generate_report.s()"
        ) from None

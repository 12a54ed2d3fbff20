"""From the results of jobs to the three files of a report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from pynomaly_tasks.domain.reports.csv_export import anomalies_csv
from pynomaly_tasks.domain.reports.detection_section import DetectionSection, read_detection
from pynomaly_tasks.domain.reports.limits import MAX_HTML_BYTES, STEPS, Limits
from pynomaly_tasks.domain.reports.other_section import OtherSection, read_other
from pynomaly_tasks.domain.reports.page import Page, render
from pynomaly_tasks.domain.reports.profile_section import ProfileSection, read_profile
from pynomaly_tasks.domain.reports.words import clean, cut, show_time

MAX_TITLE = 200
Section: TypeAlias = DetectionSection | ProfileSection | OtherSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The result of one job."""

    job_id: str
    summary: Mapping[str, Any]
    detail: Mapping[str, Any]
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `generate_report` leaves."""

    title: str
    html: str  #: self-contained, under 200 KB as UTF-8
    json: bytes  #: everything the jobs told, nothing left out
    csv: str  #: every listed anomaly
    n_anomalies: int | None  #: of all jobs together; None when no job looked for any


def build_report(sources: Sequence[Source], *, title: str | None = None) -> Report:
    """The report on at least one job; the title is written from the first when None."""
    written_at = datetime.now(UTC)
    for limits in STEPS:
        sections = [_section(source, number, limits) for number, source in enumerate(sources, start=1)]
        shown_title = cut(clean(title or _title(sections)), MAX_TITLE)
        html = render(
            Page(
                title=shown_title,
                written_at=show_time(written_at),
                finished_at=show_time(max(source.finished_at for source in sources)),
                sections=sections,
                is_shortened=limits is not STEPS[0],
            )
        )
        if len(html.encode("utf-8", "replace")) < MAX_HTML_BYTES:
            break
    counts = [section.n_anomalies for section in sections if section.n_anomalies is not None]
    return Report(
        title=shown_title,
        html=html,
        json=_json(sources, shown_title, written_at),
        csv=anomalies_csv([(source.job_id, source.detail) for source in sources]),
        n_anomalies=sum(counts) if counts else None,
    )


def _section(source: Source, number: int, limits: Limits) -> Section:
    anchor, detail = f"job-{number}", source.detail
    if isinstance(detail.get("anomalies"), list) and isinstance(detail.get("detector"), Mapping):
        return read_detection(source.job_id, detail, anchor, limits)
    columns = detail.get("columns")
    if isinstance(columns, list) and all(isinstance(column, Mapping) for column in columns):
        return read_profile(source.job_id, detail, anchor, limits)
    return read_other(source.job_id, source.summary, detail, anchor, limits)


def _title(sections: Sequence[Section]) -> str:
    if len(sections) > 1:
        return f"Report on {len(sections)} jobs"
    match sections[0]:
        case DetectionSection(heading=name):
            return f"Anomalies in {name}"
        case ProfileSection(heading=name):
            return f"Profile of {name}"
        case section:
            return f"Report on {section.heading}"


def _json(sources: Sequence[Source], title: str, written_at: datetime) -> bytes:
    jobs = [
        {
            "job_id": source.job_id,
            "finished_at": source.finished_at.isoformat(),
            "summary": _plain(source.summary),
            "detail": _plain(source.detail),
        }
        for source in sources
    ]
    report = {"title": title, "written_at": written_at.isoformat(), "jobs": jobs}
    return json.dumps(report, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """The same as JSON allows it: NaN and infinity, which it does not, are null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float) or value is None else str(value)

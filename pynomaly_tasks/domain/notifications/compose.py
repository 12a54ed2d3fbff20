"""The words of a notification, short and plain, from what jobs found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

N_TOP = 3  #: anomalies told of for each job
MAX_NAME = 80  #: characters of a dataset or column name
MAX_SUBJECT = 200
MAX_BODY = 10_000

#: job id, summary, detail
Found: TypeAlias = tuple[str, Mapping[str, Any], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A notification as plain text."""

    subject: str  #: one line, at most MAX_SUBJECT characters
    body: str  #: at most MAX_BODY characters


def compose(jobs: Iterable[Found]) -> Composed:
    """What each job found: dataset, number of anomalies, the three that stand out most and why."""
    parts = [_about(*job) for job in jobs]
    subject = parts[0].subject if len(parts) == 1 else f"{len(parts)} jobs are done"
    body = "\n\n".join(part.body if len(parts) == 1 else f"{part.subject}\n{part.body}" for part in parts)
    return Composed(subject=_cut(subject, MAX_SUBJECT), body=_cut(body, MAX_BODY, keep_lines=True))


def _about(job_id: str, summary: Mapping[str, Any], detail: Mapping[str, Any]) -> Composed:
    name = _cut(str(_at(detail, "dataset", "name") or "a dataset"), MAX_NAME)
    if isinstance(detail.get("anomalies"), list):
        return _about_anomalies(job_id, name, detail)
    if isinstance(detail.get("columns"), list):
        return _about_profile(job_id, name, detail)
    told = [f"{key}: {_cut(str(value), MAX_NAME)}" for key, value in summary.items() if key != "job_id"]
    return Composed(subject=f"Job {_cut(job_id, MAX_NAME)} is done", body="\n".join([*told, f"Job {job_id}"]))


def _about_anomalies(job_id: str, name: str, detail: Mapping[str, Any]) -> Composed:
    n_anomalies = int(detail.get("n_anomalies") or 0)
    n_scored = int(detail.get("n_scored") or 0)
    found = "No anomalies" if n_anomalies == 0 else _count(n_anomalies, "anomaly", "anomalies")
    lines = [
        f"{found} in {_count(n_scored, 'row', 'rows')} of {name} "
        f"({_cut(str(_at(detail, 'detector', 'name') or 'detector'), MAX_NAME)})."
    ]
    lines += [_one(anomaly) for anomaly in detail["anomalies"][:N_TOP]]
    n_warnings = len(detail.get("warnings") or ())
    if n_warnings:
        lines.append(f"{_count(n_warnings, 'warning', 'warnings')}: see the result.")
    return Composed(subject=f"{found} in {name}", body="\n".join([*lines, f"Job {job_id}"]))


def _one(anomaly: Mapping[str, Any]) -> str:
    where = anomaly.get("timestamp") or f"row {anomaly.get('row')}"
    why = ", ".join(
        f"{_cut(str(part.get('column')), MAX_NAME)} {part.get('direction')} ({_number(part.get('value'))})"
        for part in (anomaly.get("contributions") or ())[:2]
    )
    line = f"{anomaly.get('rank')}. {where}: score {_number(anomaly.get('score'))}"
    return f"{line}, {why}" if why else line


def _about_profile(job_id: str, name: str, detail: Mapping[str, Any]) -> Composed:
    size = (
        f"{_count(int(detail.get('n_rows') or 0), 'row', 'rows')}, "
        f"{_count(len(detail['columns']), 'column', 'columns')}"
    )
    lines = [f"{size}."]
    with_gaps = sum(1 for column in detail["columns"] if column.get("n_missing"))
    if with_gaps:
        lines.append(f"{_count(with_gaps, 'column has', 'columns have')} missing values.")
    n_warnings = len(detail.get("warnings") or ())
    if n_warnings:
        lines.append(f"{_count(n_warnings, 'warning', 'warnings')}: see the result.")
    return Composed(subject=f"Profile of {name}: {size}", body="\n".join([*lines, f"Job {job_id}"]))


def _at(detail: Mapping[str, Any], *path: str) -> Any:
    value: Any = detail
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _number(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _cut(str(value), MAX_NAME)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _cut(text: str, limit: int, *, keep_lines: bool = False) -> str:
    """At most ``limit`` characters, without control characters, on one line unless lines are kept."""
    plain = "".join(
        letter if letter.isprintable() or (keep_lines and letter == "\n") else " " for letter in text
    )
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"

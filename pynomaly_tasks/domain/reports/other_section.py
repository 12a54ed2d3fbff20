"""What the report says about any other kind of job: its summary and the plain values of its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pynomaly_tasks.domain.reports.facts import Fact, facts_about_dataset, facts_about_run
from pynomaly_tasks.domain.reports.json_reader import obj, text, texts
from pynomaly_tasks.domain.reports.limits import Limits
from pynomaly_tasks.domain.reports.words import show

_SHOWN_ELSEWHERE = frozenset({"dataset", "timing_s", "versions", "warnings", "job_id"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherSection:
    """One job of another kind."""

    kind: str
    anchor: str
    job_id: str
    heading: str
    lead: str
    tiles: Sequence[Fact]
    facts: Sequence[Fact]
    values: Sequence[Fact]
    warnings: Sequence[str]
    n_anomalies: None = None


def read_other(
    job_id: str, summary: Mapping[str, Any], detail: Mapping[str, Any], anchor: str, limits: Limits
) -> OtherSection:
    """The section of one job whose result has no form of its own."""
    values = {key: value for key, value in {**summary, **detail}.items() if key not in _SHOWN_ELSEWHERE}
    return OtherSection(
        kind="other",
        anchor=anchor,
        job_id=job_id,
        heading=text(obj(detail, "dataset"), "name") or f"Job {job_id}",
        lead="What the job left, value by value.",
        tiles=[],
        facts=[*facts_about_dataset(detail), *facts_about_run(job_id, detail)],
        values=[Fact(str(key), show(value, 300)) for key, value in islice(values.items(), limits.n_names)],
        warnings=texts(detail, "warnings")[: limits.n_names],
    )

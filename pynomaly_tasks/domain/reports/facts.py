"""Named values that every section shows: the data, the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pynomaly_tasks.domain.reports.json_reader import number, obj, text
from pynomaly_tasks.domain.reports.words import NOTHING, show, show_bytes, show_seconds


class Fact(NamedTuple):
    """One name and value."""

    name: str
    value: str


def facts_about_dataset(detail: Mapping[str, Any]) -> list[Fact]:
    """Where the data came from, and how large it is."""
    dataset = obj(detail, "dataset")
    facts = [
        Fact("Dataset", text(dataset, "name") or ""),
        Fact("Source", text(dataset, "source") or ""),
        Fact("Format", text(dataset, "format") or ""),
        Fact("Rows", show(dataset.get("n_rows", detail.get("n_rows")))),
        Fact("Columns", show(dataset.get("n_columns", detail.get("n_columns")))),
        Fact("Size", show_bytes(number(dataset, "size_bytes"))),
    ]
    return [fact for fact in facts if fact.value not in ("", NOTHING)]


def facts_about_run(job_id: str, detail: Mapping[str, Any]) -> list[Fact]:
    """Job, timing and the versions of what did the work."""
    timing = obj(detail, "timing_s")
    steps = [f"{key} {show_seconds(number(value))}" for key, value in timing.items() if key != "total"]
    total = number(timing, "total")
    told = show_seconds(total) + (f" ({', '.join(steps)})" if steps else "")
    versions = ", ".join(f"{key} {show(value)}" for key, value in obj(detail, "versions").items())
    facts = [Fact("Job", job_id), Fact("Time taken", told if total is not None else ", ".join(steps))]
    return [fact for fact in [*facts, Fact("Versions", versions)] if fact.value]

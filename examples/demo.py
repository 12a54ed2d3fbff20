"""The main job on real data: what `make demo` runs once the platform is up.

A New York taxi series and a table of heart recordings go through the queues: each is searched for
anomalies, the table is profiled, a report is made and a notification sent. Then the anomalies
found are laid beside the known ones. With `make up` running, it runs by itself as well.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from celery import chain
from rich.console import Console
from rich.table import Table

from pynomaly_tasks import (
    current_platform,
    detect_anomalies,
    generate_report,
    profile_dataset,
    send_notification,
)
from pynomaly_tasks.cli import terminal
from pynomaly_tasks.cli.progress import follow, stands
from pynomaly_tasks.core.job import JobState

DATA = Path(__file__).with_name("data")
TIME_LIMIT_S = 120.0


def main() -> None:
    """Submit, watch, compare."""
    console = terminal.console()
    platform = current_platform()
    windows = json.loads((DATA / "nab" / "windows.json").read_text())["nyc_taxi.csv"]

    series = detect_anomalies.s("nab/nyc_taxi.csv", detector="rolling_robust_z", label_windows=windows)
    story = chain(series, generate_report.s(title="New York taxi rides"), send_notification.s())
    sent = story.apply_async()
    report, detected = sent.parent, sent.parent.parent
    table = detect_anomalies.delay(
        "adbench/cardio.parquet", detector="isolation_forest", label_column="label", contamination=0.1
    )
    profile = profile_dataset.delay("adbench/cardio.parquet")

    steps = {
        detected.id: "detect   taxi series",
        table.id: "detect   heart table",
        profile.id: "profile  heart table",
        report.id: "report   taxi series",
        sent.id: "notify   taxi series",
    }
    seen = follow(
        platform.store,
        list(steps),
        console,
        labels=list(steps.values()),
        timeout_s=TIME_LIMIT_S,
        as_one=True,
    )
    for job in seen:
        if job.state.is_final and job.state is not JobState.SUCCEEDED:
            sys.exit(f"{steps[job.id]} {stands(job)}")
    if len(seen) < len(steps) or not all(job.state.is_final for job in seen):
        sys.exit(
            f"not done after {TIME_LIMIT_S:g} s; the logs are in {platform.settings.data.directory}/logs"
        )

    show(console, "taxi series", detected.id)
    show(console, "heart table", table.id)
    path = platform.artifacts.address(platform.store.get_result(report.id).artifacts["report.html"])
    console.print(f"\nreport   {path}", soft_wrap=True)


def show(console: Console, title: str, job_id: str) -> None:
    """Print what a job found, beside what is known."""
    detail = current_platform().store.get_result(job_id).detail
    known = detail["evaluation"]
    found = f"{detail['n_anomalies']} anomalies in {detail['n_scored']:,} rows ({detail['detector']['name']})"
    scores = ", ".join(f"{name} {known[name]:.3f}" for name in ("precision", "recall", "auc_roc"))
    if known.get("n_windows"):
        scores += f"; {known['windows_found']} of {known['n_windows']} known incidents found"
    console.print(f"\n[bold]{title}[/]: {found}\nagainst the labels: {scores}")
    table = Table("row", "timestamp", "score", "because", box=None, padding=(0, 2, 0, 0))
    for anomaly in detail["anomalies"][:5]:
        because = ", ".join(
            f"{each['column']} {each['direction']} ({each['value']:g})"
            for each in anomaly["contributions"][:3]
            if each["value"] is not None
        )
        table.add_row(str(anomaly["row"]), anomaly["timestamp"] or "", f"{anomaly['score']:.3f}", because)
    console.print(table)


if __name__ == "__main__":
    main()

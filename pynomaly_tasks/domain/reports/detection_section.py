"""What the report says about a detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pynomaly_tasks.domain.reports.charts.close_ups import CloseUp, draw_close_ups
from pynomaly_tasks.domain.reports.charts.points import Points, ranks_by_place, read_points
from pynomaly_tasks.domain.reports.charts.timeline import Timeline, draw_timeline
from pynomaly_tasks.domain.reports.facts import Fact, facts_about_dataset, facts_about_run
from pynomaly_tasks.domain.reports.json_reader import number, obj, objs, text, texts, whole
from pynomaly_tasks.domain.reports.limits import Limits
from pynomaly_tasks.domain.reports.words import show, show_number, show_share, show_timestamp

BAR_WIDTH = 60.0  #: of the largest share, on one side of the middle
DIRECTIONS = {"high": ("↑", "high"), "low": ("↓", "low"), "missing": ("∅", "missing")}

_DRIVER_WORDS = {"high": "high", "low": "low", "other": "missing or neither"}
_EVALUATION_WORDS = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "auc_roc": "AUC-ROC",
    "auc_pr": "AUC-PR",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """How much one column has to do with a score."""

    column: str
    value: str
    direction: str  #: high, low, missing, or none where the detector cannot tell
    arrow: str
    share: str
    bar_x: float
    bar_width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One line of the table of top anomalies."""

    rank: int
    row: str
    timestamp: str | None
    score: str
    score_share: float  #: of the highest score, 0 to 1
    value: str  #: of the only column
    direction: str  #: of that value
    arrow: str
    contributions: Sequence[Contribution]
    n_more: int  #: contributions not shown
    values: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """How much one column has to do with all listed anomalies."""

    column: str
    share: str
    high: float  #: width of the bar's parts, in drawing units
    low: float
    other: float
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSection:
    """One detection job."""

    kind: str
    anchor: str
    job_id: str
    heading: str
    lead: str
    facts: Sequence[Fact]
    tiles: Sequence[Fact]
    timeline: Timeline | None
    drawn: str  #: how much of the data the timeline shows
    close_ups: Sequence[CloseUp]
    has_timestamps: bool
    has_reasons: bool  #: more than one column was looked at, so that it matters which stands out
    value_name: str  #: of the only column, where there are no reasons to tell
    anomalies: Sequence[Anomaly]
    n_listed: int
    n_anomalies: int
    drivers: Sequence[Driver]
    used: Sequence[str]
    n_used_more: int
    left_out: Sequence[tuple[str, str]]
    filled: Sequence[tuple[str, str, str]]
    evaluation: Sequence[Fact]
    evaluation_source: str
    quantiles: Sequence[tuple[str, str]]
    warnings: Sequence[str]


def read_detection(job_id: str, detail: Mapping[str, Any], anchor: str, limits: Limits) -> DetectionSection:
    """The section of one detection job, within the limits."""
    listed = objs(detail, "anomalies")
    name = text(obj(detail, "dataset"), "name") or "a dataset"
    n_anomalies = whole(detail, "n_anomalies")
    n_anomalies = len(listed) if n_anomalies is None else n_anomalies
    n_scored = whole(detail, "n_scored") or 0
    points = read_points(obj(detail, "plot"), limits.n_plotted)
    threshold = number(obj(detail, "threshold"), "value")
    ranks = ranks_by_place(listed[: limits.n_anomalies], points.is_time) if points else {}
    columns = obj(detail, "columns")
    used = texts(columns, "used")
    n_columns = limits.n_names
    return DetectionSection(
        kind="detection",
        anchor=anchor,
        job_id=job_id,
        heading=name,
        lead=_lead(n_anomalies, n_scored, detail),
        facts=[*facts_about_dataset(detail), *_facts(detail), *facts_about_run(job_id, detail)],
        tiles=_tiles(n_anomalies, n_scored, detail, listed),
        timeline=draw_timeline(points, ranks, threshold) if points else None,
        drawn=_drawn(points, n_scored, n_anomalies) if points else "",
        close_ups=draw_close_ups(points, ranks, limits.n_close_ups) if points else [],
        has_timestamps=any(anomaly.get("timestamp") is not None for anomaly in listed),
        has_reasons=len(used) != 1,
        value_name=used[0] if len(used) == 1 else "",
        anomalies=_anomalies(listed, limits),
        n_listed=len(listed),
        n_anomalies=n_anomalies,
        drivers=_drivers(listed, limits),
        used=used[:n_columns],
        n_used_more=max(0, len(used) - n_columns),
        left_out=[
            (text(one, "column") or "", text(one, "reason") or "")
            for one in objs(columns, "left_out")[:n_columns]
        ],
        filled=[
            (text(one, "column") or "", show(one.get("n_missing")), show(one.get("with")))
            for one in objs(columns, "filled")[:n_columns]
        ],
        evaluation=_evaluation(obj(detail, "evaluation")),
        evaluation_source=text(obj(detail, "evaluation"), "labels") or "",
        quantiles=[
            (_quantile_name(key), show_number(number(value)))
            for key, value in obj(detail, "score_quantiles").items()
        ],
        warnings=texts(detail, "warnings")[: limits.n_names],
    )


def _drawn(points: Points, n_scored: int, n_anomalies: int) -> str:
    n_points, n_hot = len(points.at), sum(points.anomaly)
    if n_points >= n_scored:
        return "Every row is drawn."
    hot = "every anomaly" if n_hot >= n_anomalies else f"{n_hot:,} of {n_anomalies:,} anomalies"
    return f"{n_points:,} of {n_scored:,} rows are drawn, {hot} among them."


def _lead(n_anomalies: int, n_scored: int, detail: Mapping[str, Any]) -> str:
    found = (
        "No anomaly" if n_anomalies == 0 else f"{n_anomalies:,} anomal{'y' if n_anomalies == 1 else 'ies'}"
    )
    share = f" ({show_share(n_anomalies / n_scored)})" if n_scored and n_anomalies else ""
    detector = text(obj(detail, "detector"), "name") or "the detector"
    return f"{found} among {n_scored:,} rows{share}, found by {detector}."


def _tiles(
    n_anomalies: int, n_scored: int, detail: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]
) -> list[Fact]:
    evaluation = obj(detail, "evaluation")
    tiles = [
        Fact("anomalies", f"{n_anomalies:,}"),
        Fact("rows scored", f"{n_scored:,}"),
        Fact("highest score", show_number(number(listed[0], "score") if listed else None)),
        Fact("threshold", show_number(number(obj(detail, "threshold"), "value"))),
    ]
    for key, name in (("precision", "precision"), ("recall", "recall"), ("auc_roc", "AUC-ROC")):
        if (value := number(evaluation, key)) is not None:
            tiles.append(Fact(name, f"{value:.2f}"))
    return tiles


def _facts(detail: Mapping[str, Any]) -> list[Fact]:
    detector = obj(detail, "detector")
    threshold = obj(detail, "threshold")
    columns = obj(detail, "columns")
    parameters = ", ".join(f"{key} = {show(value)}" for key, value in obj(detector, "params").items())
    facts = [
        Fact("Detector", text(detector, "name") or ""),
        Fact("Parameters", parameters or "its defaults"),
        Fact(
            "Threshold",
            f"{text(threshold, 'method') or 'not stated'} {show(threshold.get('requested'))}: "
            f"scores from {show_number(number(threshold, 'value'))} are anomalies",
        ),
        Fact("Seed", show(detail.get("seed"))),
    ]
    for key, name in (("timestamp", "Time column"), ("label", "Label column")):
        if (column := text(columns, key)) is not None:
            facts.append(Fact(name, column))
    return facts


def _anomalies(listed: Sequence[Mapping[str, Any]], limits: Limits) -> list[Anomaly]:
    shown = listed[: limits.n_anomalies]
    highest = max((number(one, "score") or 0.0 for one in shown), default=0.0)
    # Bars share one scale, so that rows can be compared; 21 columns of 5 % each would all be dots otherwise.
    largest_share = max(
        (number(part, "share") or 0.0 for one in shown for part in objs(one, "contributions")), default=0.0
    )
    return [_anomaly(one, highest, largest_share, limits) for one in shown]


def _anomaly(anomaly: Mapping[str, Any], highest: float, largest_share: float, limits: Limits) -> Anomaly:
    # What pulls the score down has no share in it.
    parts = [part for part in objs(anomaly, "contributions") if (number(part, "share") or 0.0) > 0]
    parts.sort(key=lambda one: -(number(one, "share") or 0.0))
    score = number(anomaly, "score")
    timestamp = text(anomaly, "timestamp")
    values = list(obj(anomaly, "values").items())
    return Anomaly(
        rank=whole(anomaly, "rank") or 0,
        row=show(anomaly.get("row")),
        timestamp=None if timestamp is None else show_timestamp(timestamp),
        score=show_number(score),
        score_share=round(max(0.0, min(1.0, (score or 0.0) / highest)), 3) if highest > 0 else 0.0,
        value=show(next(iter(obj(anomaly, "values").values()), None), 40),
        direction=_direction(parts[0])[1] if parts else "none",
        arrow=_direction(parts[0])[0] if parts else "",
        contributions=[_contribution(part, largest_share) for part in parts[: limits.n_contributions]],
        n_more=max(0, len(parts) - limits.n_contributions),
        values=[(str(key), show(value)) for key, value in values[: limits.n_values]],
    )


def _direction(part: Mapping[str, Any]) -> tuple[str, str]:
    """Arrow and word."""
    return DIRECTIONS.get(text(part, "direction") or "", ("", "none"))


def _contribution(part: Mapping[str, Any], largest_share: float) -> Contribution:
    share = max(0.0, min(1.0, number(part, "share") or 0.0))
    arrow, word = _direction(part)
    width = round(min(BAR_WIDTH, max(share / largest_share * BAR_WIDTH, 1.0)), 1)
    return Contribution(
        column=text(part, "column") or "",
        value=show(part.get("value"), 40),
        direction=word,
        arrow=arrow,
        share=show_share(share),
        bar_x=round(BAR_WIDTH - width, 1) if word == "low" else BAR_WIDTH,
        bar_width=width,
    )


def _drivers(listed: Sequence[Mapping[str, Any]], limits: Limits) -> list[Driver]:
    """The mean share of each column over the listed anomalies, by direction."""
    sums: dict[str, dict[str, float]] = {}
    n_explained = 0
    for anomaly in listed:
        parts = objs(anomaly, "contributions")
        n_explained += bool(parts)
        for part in parts:
            by_direction = sums.setdefault(
                text(part, "column") or "", {"high": 0.0, "low": 0.0, "other": 0.0}
            )
            direction = text(part, "direction") or ""
            by_direction[direction if direction in ("high", "low") else "other"] += (
                number(part, "share") or 0.0
            )
    if len(sums) < 2:
        return []
    ordered = sorted(sums.items(), key=lambda one: -sum(one[1].values()))[: limits.n_drivers]
    widest = max(sum(ordered[0][1].values()), 1e-12)
    return [
        Driver(
            column=column,
            share=show_share(sum(parts.values()) / n_explained),
            high=round(200 * parts["high"] / widest, 1),
            low=round(200 * parts["low"] / widest, 1),
            other=round(200 * parts["other"] / widest, 1),
            told=", ".join(
                f"{show_share(value / n_explained)} {word}"
                for word, value in (
                    ("high", parts["high"]),
                    ("low", parts["low"]),
                    ("missing", parts["other"]),
                )
                if value > 0
            ),
        )
        for column, parts in ordered
    ]


def _evaluation(evaluation: Mapping[str, Any]) -> list[Fact]:
    facts = [
        Fact(name, f"{value:.3f}")
        for key, name in _EVALUATION_WORDS.items()
        if (value := number(evaluation, key)) is not None
    ]
    for key, name in (("n_positive", "Known anomalous rows"), ("n_labelled", "Rows with a label")):
        if (n := whole(evaluation, key)) is not None:
            facts.append(Fact(name, f"{n:,}"))
    found, of = whole(evaluation, "windows_found"), whole(evaluation, "n_windows")
    if found is not None and of is not None:
        facts.append(Fact("Known incidents found", f"{found} of {of}"))
    return facts


def _quantile_name(key: str) -> str:
    value = _as_number(key)
    if value is None:
        return key
    return {0.0: "minimum", 0.5: "median", 1.0: "maximum"}.get(value, f"{100 * value:g} %")


def _as_number(key: str) -> float | None:
    try:
        return float(key)
    except ValueError:
        return None

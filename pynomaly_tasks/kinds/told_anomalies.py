"""A detection as events: of its anomalies those that were explained, a hundred an event."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pynomaly_tasks.core.redact import mask_url
from pynomaly_tasks.core.work_events import (
    MAX_BATCHES,
    MAX_CAUSES,
    MAX_LISTED,
    AnomalyDetected,
    Cause,
    FoundAnomaly,
    result_path,
    short,
)

if TYPE_CHECKING:
    from pynomaly_tasks.domain.detection.detection import Anomaly, Detection


def anomaly_events(job_id: str, dataset: str, found: Detection) -> Sequence[AnomalyDetected]:
    """None for a detection that found nothing; else at most `MAX_BATCHES`."""
    if found.n_anomalies == 0:
        return ()
    told = found.anomalies[: MAX_LISTED * MAX_BATCHES]
    starts = range(0, len(told), MAX_LISTED) or range(1)
    return [
        AnomalyDetected(
            job_id=job_id,
            result=result_path(job_id),
            dataset=mask_url(dataset),
            detector=found.detector.name,
            threshold=_number(found.threshold.value),
            n_scored=found.n_scored,
            n_anomalies=found.n_anomalies,
            batch=number,
            n_batches=len(starts),
            anomalies=tuple(map(_told, told[start : start + MAX_LISTED])),
        )
        for number, start in enumerate(starts, start=1)
    ]


def _told(anomaly: Anomaly) -> FoundAnomaly:
    return FoundAnomaly(
        rank=anomaly.rank,
        row=anomaly.row,
        timestamp=anomaly.timestamp,
        score=_number(anomaly.score),
        causes=tuple(
            Cause(column=short(cause.column), value=_value(cause.value), share=_number(cause.share))
            for cause in anomaly.contributions[:MAX_CAUSES]
        ),
    )


def _number(value: float) -> float | None:
    # JSON has no infinity.
    return float(value) if math.isfinite(value) else None


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return short(value)
    return _number(value) if isinstance(value, float) else value

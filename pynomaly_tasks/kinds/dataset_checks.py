"""What can be found wrong with a request and its dataset before the job is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.column_rules import (
    A_DATE,
    A_TEXT,
    ALL_MISSING,
    ALL_THE_SAME,
    MIN_ROWS,
    NOT_ASKED_FOR,
    LeftOut,
    check_names,
    no_timestamp,
    nothing_left,
    too_few_rows,
    windows_without_timestamp,
)

if TYPE_CHECKING:
    from pynomaly_tasks.datasets.preview import Preview
    from pynomaly_tasks.kinds.detect_anomalies import DetectionRequest
    from pynomaly_tasks.kinds.profile_dataset import ProfileDatasetRequest


def check_profile(request: ProfileDatasetRequest, datasets: Any) -> None:
    """Raises InvalidDataset, SourceUnavailable."""

    def judge(preview: Preview) -> None:
        from pynomaly_tasks.datasets.limits import require_columns

        if preview.names is not None and request.columns is not None:
            require_columns(request.dataset, preview.names, request.columns)

    datasets.check(request.dataset, judge)


def check_detection(request: DetectionRequest, detector: DetectorSpec | None, datasets: Any) -> None:
    """detector: None where the data decides. Raises InvalidDataset, InvalidRequest, SourceUnavailable."""

    def judge(preview: Preview) -> None:
        if preview.names is None:
            return
        check_names(preview.names, request.columns, request.timestamp_column, request.label_column)
        _check_timestamp(preview, request)
        _check_something_is_left(preview, preview.names, request)
        has_no_dates = _has_no_dates(preview, preview.names, request)
        if request.label_windows and has_no_dates:
            raise windows_without_timestamp()
        is_table = has_no_dates if detector is None else detector.entry().kind == "tabular"
        if is_table and preview.n_rows is not None and preview.n_rows < MIN_ROWS:
            raise too_few_rows(preview.n_rows)

    datasets.check(request.dataset, judge)


def _check_timestamp(preview: Preview, request: DetectionRequest) -> None:
    name = request.timestamp_column
    if name is not None and name in preview.not_dates | preview.valueless:
        raise no_timestamp(name, "text" if name in preview.not_numbers else "number")


def _has_no_dates(preview: Preview, names: tuple[str, ...], request: DetectionRequest) -> bool:
    """Whether it is certain that no column gives the time."""
    taken = {*(request.columns or ()), request.label_column}
    others = (name for name in names if name not in taken)
    return request.timestamp_column is None and preview.not_dates.union(preview.valueless).issuperset(others)


def _check_something_is_left(preview: Preview, names: tuple[str, ...], request: DetectionRequest) -> None:
    """Raises InvalidDataset where it is certain that every column is left out."""
    looked_at = [name for name in names if name not in (request.timestamp_column, request.label_column)]
    if request.timestamp_column is None:
        # The first column of dates gives the time.
        dates = (name for name in looked_at if _reason(preview, name, request.columns) == A_DATE)
        first = next(dates, None)
        looked_at = [name for name in looked_at if name != first]
    left_out = []
    for name in looked_at:
        reason = _reason(preview, name, request.columns)
        if reason is None:
            return
        left_out.append(LeftOut(column=name, reason=reason))
    raise nothing_left(left_out)


def _reason(preview: Preview, name: str, columns: tuple[str, ...] | None) -> str | None:
    """Why a column is left out; None where it may be used."""
    if columns is not None and name not in columns:
        return NOT_ASKED_FOR
    if columns is None and name in preview.not_numbers:
        return A_TEXT if name in preview.not_dates else A_DATE
    if name in preview.valueless:
        return ALL_MISSING
    return ALL_THE_SAME if name in preview.constant else None

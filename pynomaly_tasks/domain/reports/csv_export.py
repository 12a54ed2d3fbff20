"""The anomalies as CSV that a spreadsheet opens without running any of it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pynomaly_tasks.domain.reports.json_reader import obj, objs, text

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FIRST_COLUMNS = ("job_id", "dataset", "rank", "row", "timestamp", "score", "why")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - the full-width forms start formulas too


def safe_cell(value: Any) -> Any:
    r"""A cell that no spreadsheet takes for a formula.

    Text that starts with ``= + - @`` (or their full-width forms), a tab or a line end gets a leading
    apostrophe, unless all of it is a number. Numbers stay as they are.

    >>> [safe_cell(x) for x in ("=cmd()", "-5", "-5+cmd()", "@a", -5, 1.5, None, "plain")]
    ["'=cmd()", '-5', "'-5+cmd()", "'@a", -5, 1.5, '', 'plain']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    words = str(value).replace("\x00", "").encode("utf-8", "replace").decode()
    if words.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(words):
        return "'" + words
    return words


def anomalies_csv(jobs: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """One line for each listed anomaly of each (job id, detail): the same head, then ``value.<column>``."""
    rows: list[tuple[list[Any], Mapping[str, Any]]] = []
    for job_id, detail in jobs:
        dataset = text(obj(detail, "dataset"), "name")
        for anomaly in objs(detail, "anomalies"):
            head = [job_id, dataset, *(anomaly.get(key) for key in ("rank", "row", "timestamp", "score"))]
            rows.append(([*head, _why(anomaly)], obj(anomaly, "values")))
    columns = list(dict.fromkeys(column for _, values in rows for column in values))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_FIRST_COLUMNS, *(f"value.{column}" for column in map(_words, columns))])
    writer.writerows(_cells(head, values, columns) for head, values in rows)
    return out.getvalue()


def _cells(head: Sequence[Any], values: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    return [safe_cell(value) for value in [*head, *(values.get(column) for column in columns)]]


def _why(anomaly: Mapping[str, Any]) -> str:
    told = []
    for part in objs(anomaly, "contributions"):
        share = part.get("share")
        percent = f" {100 * share:.0f}%" if isinstance(share, int | float) else ""
        told.append(f"{part.get('column')} {part.get('direction')}{percent}")
    return "; ".join(told)


def _words(column: str) -> str:
    return str(column).replace("\x00", "").encode("utf-8", "replace").decode()

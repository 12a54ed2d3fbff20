from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.domain.reports import Report, Source, build_report

NASTY = '</title><script>alert(1)</script><img src=x onerror="alert(2)">\'"&{{ 7*7 }}{% raw %}'
VOID = {"meta", "br", "img", "link", "input", "hr"}
ALLOWED = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "a",
    "header",
    "p",
    "h1",
    "h2",
    "h3",
    "bdi",
    "nav",
    "ol",
    "ul",
    "li",
    "main",
    "section",
    "dl",
    "div",
    "dt",
    "dd",
    "strong",
    "b",
    "code",
    "span",
    "figure",
    "figcaption",
    "svg",
    "g",
    "path",
    "rect",
    "circle",
    "text",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "details",
    "summary",
    "footer",
    "br",
}


class Checker(HTMLParser):
    """Every tag of the page, and that they nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check_harmless(html: str) -> Checker:
    """Nothing runs, nothing is loaded, links stay on the page, and every tag is one of ours."""
    page = Checker(html)
    assert page.open == []
    assert {tag for tag, _ in page.tags} <= ALLOWED
    for tag, attributes in page.tags:
        names = set(attributes)
        assert not {name for name in names if name.startswith("on")} | (names & {"style", "src", "srcset"})
        if "href" in attributes:
            assert tag == "a"
            assert str(attributes["href"]).startswith("#")
    return page


def source(
    detail: Mapping[str, Any], job_id: str = "job-1", summary: Mapping[str, Any] | None = None
) -> Source:
    finished_at = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
    return Source(job_id=job_id, summary=summary or {}, detail=detail, finished_at=finished_at)


def detection(
    n_columns: int = 3, n_listed: int = 20, n_plotted: int = 400, word: str = "", series: bool = False
) -> dict[str, Any]:
    """A result as detect_anomalies leaves it; ``word`` is put into every text of the user's."""
    start = datetime(2014, 7, 1)
    names = [f"{word}column {n}" for n in range(n_columns)]
    x: list[Any] = list(range(n_plotted))
    if series:
        x = [(start + timedelta(minutes=30 * n)).isoformat() for n in range(n_plotted)]
    hot = [n % max(1, n_plotted // max(1, n_listed)) == 0 for n in range(n_plotted)]
    rows = [n for n in range(n_plotted) if hot[n]][:n_listed]
    return {
        "dataset": {"source": f"/data/{word}.csv", "name": f"{word}taxi", "format": "csv", "n_rows": n_plotted,
                    "n_columns": n_columns, "size_bytes": 5_000},
        "columns": {"used": names, "left_out": [{"column": f"{word}id", "reason": f"text {word}"}],
                    "filled": [{"column": f"{word}gap", "n_missing": 3, "with": f"median {word}"}],
                    "timestamp": f"{word}time" if series else None, "label": f"{word}label"},
        "detector": {"name": f"ecod{word}", "params": {f"{word}p": f"{word}v"},
                     "kind": "series" if series else "tabular"},
        "seed": 7,
        "threshold": {"method": "contamination", "requested": 0.01, "value": 2.5},
        "n_scored": n_plotted,
        "n_anomalies": sum(hot),
        "score_quantiles": {"0.5": 1.0, "0.9": 2.0, "0.99": 2.4, "1.0": 9.0},
        "anomalies": [
            {"rank": rank, "row": row, "timestamp": x[row] if series else None, "score": 9.0 - rank / 100,
             "values": dict.fromkeys(names, f"{word}{row}" if word else row * 1.5),
             "contributions": [
                 {"column": name, "value": f"{word}x", "contribution": 2.0, "share": 1 / n_columns,
                  "direction": ("high", "low", "missing")[k % 3]}
                 for k, name in enumerate(names)
             ]}
            for rank, row in enumerate(rows, start=1)
        ],
        "plot": {"kind": "series" if series else "scores", "x": x,
                 "y": [(n % 48) * 1.25 if n % 50 else None for n in range(n_plotted)],
                 "score": [8.0 if hot[n] else (n % 7) / 3 for n in range(n_plotted)],
                 "anomaly": hot, "y_label": f"{word}value"},
        "evaluation": {"labels": "column", "n_labelled": n_plotted, "n_positive": 12, "precision": 0.512,
                       "recall": 0.25, "f1": 0.336, "auc_roc": 0.934, "auc_pr": 0.41},
        "timing_s": {"open": 0.01, "fit": 0.2, "score": 0.3, "total": 0.51},
        "versions": {f"{word}numpy": f"2.4{word}"},
        "warnings": [f"3 gaps {word}"],
    }  # fmt: skip


def profile(n_columns: int = 6, word: str = "") -> dict[str, Any]:
    """A result as profile_dataset leaves it."""
    names = [f"{word}column {n}" for n in range(n_columns)]
    numeric = [
        {"name": name, "type": f"DOUBLE{word}", "kind": "number", "n_missing": n % 4, "missing_share": (n % 4) / 100,
         "n_distinct": 40, "is_constant": False, "min": -1.5, "max": 9.25, "mean": 3.0, "std": 2.0,
         "quantiles": {"0.01": -1.0, "0.5": 3.0},
         "histogram": {"edges": [0, 1, 2, 3], "counts": [4, 0, 96]}, "top_values": []}
        for n, name in enumerate(names)
    ]  # fmt: skip
    text_column = {
        "name": f"{word}city", "type": "VARCHAR", "kind": "text", "n_missing": 0, "missing_share": 0.0, "n_distinct": 2,
        "is_constant": False, "min": f"{word}a", "max": f"{word}z", "mean": None, "std": None, "quantiles": {},
        "histogram": None, "top_values": [{"value": f"{word}Oslo", "count": 60}, {"value": None, "count": 40}],
    }  # fmt: skip
    return {
        "dataset": {"source": "/d", "name": f"{word}cities", "format": "csv", "n_rows": 100, "size_bytes": 10},
        "n_rows": 100,
        "n_columns": n_columns + 1,
        "n_duplicate_rows": None,
        "columns": [text_column, *numeric],
        "correlations": {
            "columns": names,
            "matrix": [[1.0 if i == j else 0.9 - abs(i - j) / n_columns for j in range(n_columns)] for i in
                       range(n_columns)],
        },
        "timing_s": {"open": 0.1, "profile": 0.2},
        "versions": {"duckdb": "2.0"},
        "warnings": [f"duplicates not counted {word}"],
    }  # fmt: skip


def test_a_detection_shows_what_was_done_and_what_was_found() -> None:
    report = build_report([source(detection(series=True))])

    text = " ".join(" ".join(check_harmless(report.html).texts).split())
    assert report.title == "Anomalies in taxi"
    assert report.n_anomalies == 20
    for told in (
        "20 anomalies among 400 rows (5.0 %), found by ecod.", "contamination 0.01: scores from 2.5 are anomalies",
        "Precision", "0.512", "AUC-ROC", "0.934", "text", "3 gaps", "median", "510 ms", "2014-07-01 10:00",
        "33 %", "unusually high", "column 1", "↓", "job-1",
    ):  # fmt: skip
        assert told in text


def test_a_profile_shows_columns_distributions_and_correlations() -> None:
    report = build_report([source(profile())])

    page = check_harmless(report.html)
    text = " ".join(" ".join(page.texts).split())
    assert report.title == "Profile of cities"
    assert report.n_anomalies is None
    for told in (
        "100 rows in 7 columns; 4 with missing values.",
        "not counted",
        "Oslo",
        "60 %",
        "+0.73",
        "duplicates",
    ):
        assert told in text
    assert "Histogram from 0 to 3; most values, 96, lie between 2 and 3" in report.html


def test_any_other_job_shows_its_values() -> None:
    report = build_report(
        [source({"rows_written": 1234, "checks": [{"ok": True}]}, summary={"status": "succeeded"})]
    )

    text = " ".join(check_harmless(report.html).texts)
    assert report.title == "Report on Job job-1"
    assert "1,234" in text
    assert "succeeded" in text


@pytest.mark.parametrize("series", [True, False])
def test_markup_of_the_user_is_text_everywhere(series: bool) -> None:
    sources = [source(detection(word=NASTY, series=series), job_id=NASTY), source(profile(word=NASTY)),
               source({NASTY: NASTY, "warnings": [NASTY]}, summary={NASTY: NASTY})]  # fmt: skip

    report = build_report(sources, title=NASTY)

    page = check_harmless(report.html)
    assert report.html.count("<script") == 0
    assert "<title>&lt;/title&gt;&lt;script&gt;" in report.html
    assert "{{ 7*7 }}" in " ".join(page.texts)


def test_one_column_is_shown_by_its_value_not_by_shares() -> None:
    report = build_report([source(detection(n_columns=1, series=True))])

    assert "unusually high" not in report.html
    assert "↑ high" in report.html


def test_the_page_allows_only_its_own_style() -> None:
    report = build_report([source(detection())])

    page = check_harmless(report.html)
    policy = next(
        str(m["content"]) for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"
    )
    style = re.search(r"<style>(.*?)</style>", report.html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_page_can_be_read_by_a_screen_reader() -> None:
    report = build_report([source(detection(series=True)), source(detection()), source(profile())])

    page = check_harmless(report.html)
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    links = {str(a["href"])[1:] for a in page.of("a")}
    assert page.of("html")[0]["lang"] == "en"
    assert len(page.of("h1")) == 1
    assert len(page.of("table")) == len(page.of("caption")) > 5
    assert len(set(ids)) == len(ids)
    assert links <= set(ids)
    for svg in page.of("svg"):
        assert svg.get("aria-hidden") == "true" or (
            svg.get("role") == "img" and (svg.get("aria-label") or svg.get("aria-labelledby") in ids)
        )
    assert all(th.get("scope") in {"row", "col"} for th in page.of("th"))


@pytest.mark.large
@pytest.mark.parametrize(
    "sources",
    [
        [source(detection(n_columns=40, n_listed=1_000, n_plotted=2_000))],
        [source(detection(n_columns=1, n_listed=2_000, n_plotted=2_000, series=True))],
        [source(profile(n_columns=400))],
        [source(detection(n_columns=300, n_listed=100, word="é" * 500))],
        [source(profile(n_columns=300, word="<" * 1_000))],
        [
            source(detection(n_columns=20, n_plotted=2_000, series=n % 2 == 0), job_id=str(n))
            for n in range(20)
        ],
        [source({f"{'k' * 900}{n}": "v" * 9_000 for n in range(500)}, job_id=f"{n}") for n in range(20)],
    ],
    ids=["many anomalies", "all anomalies", "wide", "long names", "long markup", "20 jobs", "20 long others"],
)
def test_the_page_stays_under_200_kb(sources: list[Source]) -> None:
    report = build_report(sources)

    check_harmless(report.html)
    assert len(report.html.encode()) < 200_000


def test_the_json_holds_everything_that_the_page_leaves_out() -> None:
    detail = detection(n_columns=40, n_listed=300, n_plotted=2_000)

    report = build_report([source(detail, summary={"anomalies_found": 300})], title="T")

    told = json.loads(report.json)
    assert told["title"] == "T"
    assert told["jobs"][0]["detail"] == detail
    assert told["jobs"][0]["summary"] == {"anomalies_found": 300}


def test_the_csv_lists_every_anomaly_of_every_job() -> None:
    report = build_report(
        [source(detection(), "a"), source(profile(), "b"), source(detection(n_columns=2), "c")]
    )

    rows = list(csv.DictReader(io.StringIO(report.csv)))
    assert len(rows) == 40
    assert rows[1] == {
        "job_id": "a", "dataset": "taxi", "rank": "2", "row": "20", "timestamp": "", "score": "8.98",
        "why": "column 0 high 33%; column 1 low 33%; column 2 missing 33%",
        "value.column 0": "30.0", "value.column 1": "30.0", "value.column 2": "30.0",
    }  # fmt: skip
    assert rows[20]["job_id"] == "c"
    assert rows[20]["value.column 2"] == ""


def test_no_cell_of_the_csv_is_a_formula() -> None:
    detail = detection(n_columns=1, n_listed=1)
    detail["dataset"]["name"] = "@SUM(A1)"
    detail["anomalies"][0]["values"] = {
        "=HYPERLINK(1)": "=cmd|' /C calc'!A0", "b": -1.5, "c": "+1", "d": "-2+3", "e": "\t=1", "f": "\N{FULLWIDTH EQUALS SIGN}1"
    }  # fmt: skip
    detail["anomalies"][0]["contributions"][0]["column"] = "=x"

    report = build_report([source(detail)])

    (row,) = csv.DictReader(io.StringIO(report.csv))
    assert row["dataset"] == "'@SUM(A1)"
    assert row["why"] == "'=x high 100%"
    assert [row[f"value.{key}"] for key in ("=HYPERLINK(1)", "b", "c", "d", "e", "f")] == [
        "'=cmd|' /C calc'!A0", "-1.5", "+1", "'-2+3", "'\t=1", "'\N{FULLWIDTH EQUALS SIGN}1"
    ]  # fmt: skip


def test_known_incidents_are_shaded() -> None:
    detail = detection(series=True)
    detail["plot"]["windows"] = [["2014-07-02T00:00:00", "2014-07-03T00:00:00"], ["soon", 3]]

    report = build_report([source(detail)])

    assert report.html.count('class="band"') == 2  # one stretch, in both panels
    assert "shaded stretches are known incidents" in report.html


def test_invisible_characters_are_made_visible() -> None:
    detail = detection()
    detail["dataset"]["name"] = "a\u202egpj.exe\x00"

    report = build_report([source({**detail, "warnings": []})], title="x\u2066y")

    assert report.title == "x\ufffdy"
    assert "a\ufffdgpj.exe\ufffd" in report.html


def test_a_result_without_anomalies_or_points_is_still_a_page() -> None:
    detail = detection(n_listed=0)
    detail.update(
        anomalies=[], n_anomalies=0, plot={"kind": "series", "x": [], "y": [], "score": [], "anomaly": []}
    )

    report = build_report([source(detail)])

    assert "No anomaly among 400 rows" in report.html
    assert report.csv == "job_id,dataset,rank,row,timestamp,score,why\n"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([NASTY, "2014-01-01"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(data=st.data())
def test_no_result_however_odd_breaks_the_page(data: st.DataObject) -> None:
    detail: dict[str, Any] = data.draw(st.sampled_from([detection, profile]))()
    for key in data.draw(st.lists(st.sampled_from(sorted(detail)), max_size=4)):
        part = detail[key]
        if isinstance(part, dict) and part and data.draw(st.booleans()):
            detail[key] = {**part, data.draw(st.sampled_from(sorted(part))): data.draw(JSON)}
        elif (
            isinstance(part, list)
            and part
            and isinstance(part[0], dict)
            and part[0]
            and data.draw(st.booleans())
        ):
            detail[key] = [
                {**part[0], data.draw(st.sampled_from(sorted(part[0]))): data.draw(JSON)},
                *part[1:],
            ]
        else:
            detail[key] = data.draw(JSON)

    report: Report = build_report([source(json.loads(json.dumps(detail)))])

    check_harmless(report.html)
    assert "nan" not in re.findall(r' d="[^"]*', report.html)
    list(csv.reader(io.StringIO(report.csv)))

"""Bad input is refused with an error that names the field, the limit and the way out, and stores nothing.

What the door cannot see, because it lies deep in a long file or came into it later, ends the job as failed, at
its first attempt and with the same words.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from celery import Celery

from pynomaly_tasks import (
    detect_anomalies,
    detect_ensemble,
    generate_report,
    profile_dataset,
    send_notification,
)
from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidInput
from pynomaly_tasks.store.reads import JobFilter
from support.stack import Stack, client
from support.waiting import wait_until
from support.web_server import Web, running_web, web_env

TASKS = {
    "detect_anomalies": detect_anomalies,
    "detect_ensemble": detect_ensemble,
    "profile_dataset": profile_dataset,
    "generate_report": generate_report,
    "send_notification": send_notification,
}


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A call that must be refused, and what its error must say."""

    request: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "detect_anomalies"
    options: Mapping[str, Any] = field(default_factory=dict)
    field: str
    says: tuple[str, ...]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Stack]:
    """A worker, and ``good.csv`` in the directory that may be read."""
    stack = Stack(tmp_path_factory.mktemp("stack"), redis_server, {"PYNOMALY_DATA__MAX_COLUMNS": "500"})
    with client(stack):
        try:
            stack.worker("workers.all", "-c", "1")
            stack.csv("good.csv", [[i, i % 7] for i in range(200)])
            yield stack
        finally:
            stack.close()


@pytest.fixture(scope="module")
def web(stack: Stack) -> Iterator[Web]:
    """The web process of the same platform."""
    env = {**stack.env, **web_env(stack.redis.url, stack.directory / "platform")}
    with running_web(stack.programs, env) as web:
        yield web


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Iterator[Celery]:
    """A Celery client that knows neither our tasks nor our door."""
    with Celery("stranger", broker=f"{stack.redis.url}/1", set_as_current=False) as celery:
        yield celery


@pytest.fixture(params=["delay", "submit"])
def door(request: pytest.FixtureRequest, stack: Stack) -> Callable[..., str]:
    """Both ways in: Celery's call and the platform's; each answers with the job's id."""

    def delay(kind: str, values: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        return str(TASKS[kind].apply_async(kwargs=dict(values), **options).id)

    def submit(kind: str, values: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        return stack.platform.submit(kind, values, **options).id

    return {"delay": delay, "submit": submit}[request.param]


@pytest.fixture
def refuses(stack: Stack, door: Callable[..., str]) -> Callable[[Refused], None]:
    """Checks that the call is refused as it must be, and leaves no job behind."""

    def check(case: Refused) -> None:
        n_jobs = stack.platform.store.count_jobs(JobFilter())

        with pytest.raises(InvalidInput) as raised:
            door(case.kind, case.request, case.options)

        fields = [problem.field for problem in raised.value.problems]
        assert any(name == case.field or name.startswith(f"{case.field}.") for name in fields), raised.value
        for words in case.says:
            assert words in str(raised.value)
        assert len(str(raised.value)) < 2_000, "nobody reads that much"
        assert stack.platform.store.count_jobs(JobFilter()) == n_jobs

    return check


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


GOOD = {"dataset": "good.csv"}
NAN = float("nan")

REQUESTS = {
    "unknown-detector": Refused(
        request={**GOOD, "detector": "isolation_forrest"},
        field="detector",
        says=("isolation_forrest", "isolation_forest"),
    ),
    "parameter-too-large": Refused(
        request={**GOOD, "detector": {"name": "isolation_forest", "params": {"n_estimators": 1_000_000}}},
        field="detector",
        says=("n_estimators", "2000"),
    ),
    "parameter-negative": Refused(
        request={**GOOD, "detector": {"name": "knn", "params": {"n_neighbors": -1}}},
        field="detector",
        says=("n_neighbors",),
    ),
    "unknown-parameter": Refused(
        request={**GOOD, "detector": {"name": "isolation_forest", "params": {"n_trees": 5}}},
        field="detector",
        says=("n_trees", "n_estimators"),
    ),
    "parameter-nan": Refused(
        request={**GOOD, "detector": {"name": "isolation_forest", "params": {"max_features": NAN}}},
        field="detector",
        says=("max_features",),
    ),
    "parameter-bool": Refused(
        request={**GOOD, "detector": {"name": "isolation_forest", "params": {"n_estimators": True}}},
        field="detector",
        says=("n_estimators", "integer"),
    ),
    "parameters-with-a-key-that-is-no-text": Refused(
        request={**GOOD, "detector": {"name": "isolation_forest", "params": {1: 2}}},
        field="detector",
        says=("params",),
    ),
    "parameters-of-another-type": Refused(
        request={**GOOD, "detector": {"name": "isolation_forest", "params": [1]}},
        field="detector",
        says=("params",),
    ),
    "detector-number": Refused(request={**GOOD, "detector": 7}, field="detector", says=("detector",)),
    "contamination-0": Refused(
        request={**GOOD, "contamination": 0}, field="contamination", says=("greater than 0",)
    ),
    "contamination-0.6": Refused(
        request={**GOOD, "contamination": 0.6}, field="contamination", says=("less than or equal to 0.5",)
    ),
    "contamination-nan": Refused(
        request={**GOOD, "contamination": NAN}, field="contamination", says=("finite number",)
    ),
    "contamination-bool": Refused(
        request={**GOOD, "contamination": True}, field="contamination", says=("contamination",)
    ),
    "contamination-text": Refused(
        request={**GOOD, "contamination": "much"}, field="contamination", says=("number",)
    ),
    "two-thresholds": Refused(
        request={**GOOD, "contamination": 0.1, "threshold": {"method": "budget", "value": 3}},
        field="request",
        says=("contamination or threshold, not both",),
    ),
    "threshold-nan": Refused(
        request={**GOOD, "threshold": {"method": "level", "value": NAN}},
        field="threshold",
        says=("finite number",),
    ),
    "threshold-budget-half-a-row": Refused(
        request={**GOOD, "threshold": {"method": "budget", "value": 2.5}},
        field="threshold",
        says=("whole number of rows",),
    ),
    "seed-bool": Refused(request={**GOOD, "seed": True}, field="seed", says=("integer",)),
    "seed-text": Refused(request={**GOOD, "seed": "7"}, field="seed", says=("integer",)),
    "seed-huge": Refused(request={**GOOD, "seed": 10**400}, field="seed", says=("4294967295",)),
    "top_n-fraction": Refused(request={**GOOD, "top_n": 1.5}, field="top_n", says=("integer",)),
    "top_n-huge": Refused(request={**GOOD, "top_n": 10**30}, field="top_n", says=("1000",)),
    "unknown-field": Refused(
        request={**GOOD, "detecter": "ecod"}, field="detecter", says=("no such field", "detector")
    ),
    "field-with-markup": Refused(request={**GOOD, "<script>": 1}, field="<script>", says=("no such field",)),
    "field-missing": Refused(request={}, field="dataset", says=("required",)),
    "dataset-empty": Refused(request={"dataset": ""}, field="dataset", says=("at least 1 character",)),
    "dataset-blank": Refused(request={"dataset": "  "}, field="dataset", says=("path of a file",)),
    "dataset-none": Refused(request={"dataset": None}, field="dataset", says=("string",)),
    "dataset-object": Refused(request={"dataset": object()}, field="dataset", says=("string",)),
    "dataset-bytes": Refused(request={"dataset": b"\xff\xfe"}, field="dataset", says=("dataset",)),
    "dataset-nul": Refused(request={"dataset": "good.csv\0.png"}, field="dataset", says=("NUL",)),
    "dataset-surrogate": Refused(request={"dataset": "go\ud800od.csv"}, field="dataset", says=("unicode",)),
    "dataset-too-long": Refused(request={"dataset": "a" * 5_000}, field="dataset", says=("4096",)),
    "dataset-url": Refused(
        request={"dataset": "http://169.254.169.254/latest/meta-data"}, field="dataset", says=("is a URL",)
    ),
    "column-empty": Refused(
        request={**GOOD, "columns": [""]}, field="columns", says=("at least 1 character",)
    ),
    "columns-text": Refused(request={**GOOD, "columns": "a"}, field="columns", says=("columns",)),
    "columns-twice": Refused(request={**GOOD, "columns": ["a", "a"]}, field="request", says=("twice",)),
    "columns-none-given": Refused(request={**GOOD, "columns": []}, field="columns", says=("at least 1",)),
    "too-many-columns-named": Refused(
        request={**GOOD, "columns": [f"c{i}" for i in range(10_000)]}, field="columns", says=("2000",)
    ),
    "column-surrogate": Refused(request={**GOOD, "columns": ["\udcff"]}, field="columns", says=("unicode",)),
    "request-too-large": Refused(
        request={
            "dataset": "good.csv",
            "label_windows": [["2020-01-01T00:00:00", "2020-01-02T00:00:00"]] * 9_999,
            "columns": ["x" * 900 + str(i) for i in range(1_500)],
        },
        field="request",
        says=("1,048,576",),
    ),
    "json-1100-deep": Refused(
        request={**GOOD, "detector": {"name": "isolation_forest", "params": deep(1_100)}},
        field="request",
        says=("100 levels", "flatten"),
    ),
    "job-of-a-report-missing": Refused(kind="generate_report", request={}, field="job", says=("required",)),
    "job-of-a-report-with-blanks": Refused(
        kind="generate_report", request={"job": "no such job"}, field="job", says=("job",)
    ),
    "job-of-a-report-without-id": Refused(
        kind="generate_report", request={"job": {"status": "succeeded"}}, field="job", says=("job_id",)
    ),
    "report-of-21-jobs": Refused(
        kind="generate_report", request={"job": [f"j{i}" for i in range(21)]}, field="job", says=("20",)
    ),
    "notification-of-nothing": Refused(
        kind="send_notification", request={}, field="request", says=("`job`", "`body`")
    ),
    "notification-empty": Refused(
        kind="send_notification", request={"body": ""}, field="body", says=("at least 1 character",)
    ),
}

OPTIONS = {
    "priority-10": Refused(options={"priority": 10}, field="priority", says=("less than or equal to 9",)),
    "priority-negative": Refused(
        options={"priority": -1}, field="priority", says=("greater than or equal to 0",)
    ),
    "priority-bool": Refused(options={"priority": True}, field="priority", says=("integer",)),
    "priority-text": Refused(options={"priority": "high"}, field="priority", says=("integer",)),
    "delay-negative": Refused(options={"delay_s": -1}, field="delay_s", says=("greater than or equal to 0",)),
    "delay-nan": Refused(options={"delay_s": NAN}, field="delay_s", says=("number",)),
    "delay-bool": Refused(options={"delay_s": True}, field="delay_s", says=("number",)),
    "delay-too-long": Refused(options={"delay_s": 1e9}, field="delay_s", says=("31536000",)),
    "delay-huge": Refused(options={"delay_s": 10**400}, field="delay_s", says=("number",)),
    "retries-11": Refused(
        options={"max_retries": 11}, field="max_retries", says=("less than or equal to 10",)
    ),
    "retries-bool": Refused(options={"max_retries": True}, field="max_retries", says=("integer",)),
    "backoff-0": Refused(options={"backoff_s": 0}, field="backoff_s", says=("greater than 0",)),
    "time-limit-too-long": Refused(
        options={"time_limit_s": 1e6}, field="time_limit_s", says=("14400", "max_time_limit_s")
    ),
    "run-at-without-zone": Refused(
        options={"run_at": datetime(2030, 1, 1)}, field="run_at", says=("timezone",)
    ),
    "run-at-and-delay": Refused(
        options={"run_at": "2030-01-01T00:00:00+00:00", "delay_s": 5},
        field="request",
        says=("give one of them",),
    ),
    "run-at-nonsense": Refused(options={"run_at": "tomorrow"}, field="run_at", says=("datetime",)),
    "deadline-passed": Refused(
        options={"deadline_at": "2020-01-01T00:00:00+00:00"}, field="deadline_at", says=("later than now",)
    ),
    "deadline-before-run-at": Refused(
        options={"deadline_at": "2030-01-01T00:00:00+00:00", "run_at": "2031-01-01T00:00:00+00:00"},
        field="deadline_at",
        says=("run_at",),
    ),
    "idempotency-key-empty": Refused(
        options={"idempotency_key": ""}, field="idempotency_key", says=("at least 1",)
    ),
    "idempotency-key-long": Refused(
        options={"idempotency_key": "k" * 256}, field="idempotency_key", says=("255",)
    ),
    "ordering-key-nul": Refused(options={"ordering_key": "a\0b"}, field="ordering_key", says=("pattern",)),
    "ordering-key-surrogate": Refused(
        options={"ordering_key": "a\ud800"}, field="ordering_key", says=("unicode",)
    ),
    "owner-newline": Refused(options={"owner": "a\nb"}, field="owner", says=("pattern",)),
    "queue-with-blanks": Refused(options={"queue": "a queue"}, field="queue", says=("pattern",)),
    "too-many-tags": Refused(options={"tags": ["t"] * 21}, field="tags", says=("20",)),
    "tag-of-another-type": Refused(options={"tags": [7]}, field="tags", says=("string",)),
    "unknown-option": Refused(options={"prority": 3}, field="prority", says=("no such field", "priority")),
}


@pytest.mark.parametrize("case", REQUESTS.values(), ids=REQUESTS.keys())
def test_bad_request_is_refused(refuses: Callable[[Refused], None], case: Refused) -> None:
    refuses(case)


@pytest.mark.parametrize("case", OPTIONS.values(), ids=OPTIONS.keys())
def test_bad_option_is_refused(refuses: Callable[[Refused], None], case: Refused) -> None:
    refuses(Refused(request=GOOD, options=case.options, field=case.field, says=case.says))


@dataclass(frozen=True, kw_only=True)
class BadFile:
    """A file, and what must be said about it."""

    name: str
    content: bytes
    says: tuple[str, ...]
    request: Mapping[str, Any] = field(default_factory=dict)
    field: str = "dataset"


def _rows(*lines: str) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


NO_DATA = {
    "empty": BadFile(name="empty.csv", content=b"", says=("is empty",)),
    "blank": BadFile(name="blank.csv", content=b" \n\n", says=("nothing but blanks",)),
    "binary": BadFile(name="binary.csv", content=bytes(range(256)) * 4, says=("not text", "NUL byte")),
    "image": BadFile(name="image.csv", content=b"\x89PNG\r\n\x1a\n" + bytes(64), says=("not text",)),
    "zip": BadFile(
        name="sheet.csv", content=b"PK\x03\x04" + bytes(64), says=("zip archive or an Excel workbook",)
    ),
    "latin-1": BadFile(name="latin.csv", content="a,b\nü,1\n".encode("latin-1"), says=("not UTF-8", "iconv")),
    "utf-16": BadFile(name="wide.csv", content="a,b\n1,2\n".encode("utf-16"), says=("UTF-16", "iconv")),
    "named-parquet": BadFile(
        name="no.parquet", content=b"a,b\n1,2\n3,4\n5,6\n", says=("not: it must start with PAR1",)
    ),
    "no-suffix": BadFile(name="data", content=b"a,b\n1,2\n", says=("no known suffix", ".csv")),
    "json-array": BadFile(name="array.json", content=b'[{"a": 1}]', says=("JSON lines", "jq")),
}


NO_GOOD_DATA = {
    "header-only": BadFile(name="header.csv", content=_rows("a,b"), says=("no rows",)),
    "one-row": BadFile(
        name="one.csv", content=_rows("a,b", "1,2"), says=("every value is the same",), field="columns"
    ),
    "ragged": BadFile(
        name="ragged.csv",
        content=_rows("a,b", *["1,2"] * 300, "1,2,3,4", *["1,2"] * 300),
        says=("line 302",),
    ),
    "all-missing": BadFile(
        name="missing_values.csv",
        content=_rows("a", *["NaN"] * 200),
        says=("a: every value is missing",),
        field="columns",
    ),
    "all-missing-column-named": BadFile(
        name="missing_column.csv",
        content=_rows("a,b", *[f"NaN,{i}" for i in range(200)]),
        says=("a: every value is missing",),
        request={"columns": ["a"]},
        field="columns",
    ),
    "duplicate-columns": BadFile(
        name="twice.csv", content=_rows("a,b,A", *["1,2,3"] * 50), says=("same name", "rename")
    ),
    "10000-columns": BadFile(
        name="wide_table.csv",
        content=_rows(",".join(f"c{i}" for i in range(10_000)), *[",".join(["1"] * 10_000)] * 3),
        says=("10,000 columns", "500", "max_columns"),
    ),
    "bad-byte-deep-in-the-file": BadFile(
        name="deep.csv",
        content=_rows("a,b", *["1,2"] * 40_000) + b"\xff,1\n" + _rows(*["1,2"] * 100),
        says=("not UTF-8", "160004"),
    ),
    "numbers-without-header": BadFile(
        name="numbers.csv", content=_rows(*["1,2"] * 50), says=("names the columns",)
    ),
    "no-such-column": BadFile(
        name="known.csv",
        content=_rows("a,b", *["1,2"] * 50),
        says=("zz",),
        request={"columns": ["zz"]},
        field="columns",
    ),
    "no-such-timestamp": BadFile(
        name="known.csv",
        content=_rows("a,b", *["1,2"] * 50),
        says=("zz",),
        request={"timestamp_column": "zz"},
        field="timestamp_column",
    ),
    "no-such-label": BadFile(
        name="known.csv",
        content=_rows("a,b", *["1,2"] * 50),
        says=("zz",),
        request={"label_column": "zz"},
        field="label_column",
    ),
    "few-rows": BadFile(name="few.csv", content=_rows("a,b", "1,2", "2,1", "3,3"), says=("3 rows", "10")),
    "text-only": BadFile(
        name="text.csv", content=_rows("a", *["x", "y"] * 50), says=("text", "number"), field="columns"
    ),
    "no-parquet-inside": BadFile(
        name="fake.parquet", content=b"PAR1" + bytes(64) + b"PAR1", says=("damaged Parquet",)
    ),
    "not-gzip-inside": BadFile(
        name="cut.csv.gz", content=gzip.compress(b"a,b\n1,2\n" * 5_000)[:60], says=("ends too early",)
    ),
    "parquet-with-a-column-twice": BadFile(
        name="twice.parquet",
        content=_parquet(pa.table([[1], [2]], names=["a", "a"])),
        says=("same name", "rename"),
    ),
    "parquet-without-rows": BadFile(
        name="none.parquet", content=_parquet(pa.table({"a": pa.array([], pa.int64())})), says=("no rows",)
    ),
    "parquet-without-the-column": BadFile(
        name="known.parquet",
        content=_parquet(pa.table({"a": [1, 2] * 50, "b": [3, 4] * 50})),
        says=("no column 'zz'; the file has a, b",),
        request={"columns": ["zz"]},
        field="columns",
    ),
    "no-such-json": BadFile(
        name="bad.jsonl", content=b'{"a": 1}\n{"a": \n{"a": 3}\n', says=("line 2: is not valid JSON",)
    ),
}


AT_THE_DOOR = NO_DATA | NO_GOOD_DATA


@pytest.mark.parametrize("case", AT_THE_DOOR.values(), ids=AT_THE_DOOR.keys())
def test_file_that_cannot_be_worked_on_is_refused(
    stack: Stack, refuses: Callable[[Refused], None], case: BadFile
) -> None:
    (stack.data / case.name).write_bytes(case.content)

    refuses(
        Refused(
            request={"dataset": case.name, "detector": "ecod", **case.request},
            field=case.field,
            says=case.says,
        )
    )


@pytest.mark.parametrize("name", ["header-only", "ragged", "10000-columns", "bad-byte-deep-in-the-file"])
def test_bad_file_is_refused_for_a_profile_and_an_ensemble_too(
    stack: Stack, refuses: Callable[[Refused], None], name: str
) -> None:
    case = NO_GOOD_DATA[name]
    (stack.data / case.name).write_bytes(case.content)

    for kind in ("profile_dataset", "detect_ensemble"):
        refuses(Refused(kind=kind, request={"dataset": case.name}, field=case.field, says=case.says))


def test_one_row_can_be_profiled(stack: Stack) -> None:
    stack.csv("single.csv", [[1, 2]])

    job = stack.wait_for(stack.platform.submit("profile_dataset", {"dataset": "single.csv"}).id)

    assert job.state is JobState.SUCCEEDED


@pytest.mark.parametrize("kind", ["detect_anomalies", "profile_dataset"])
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("missing.csv", "does not exist"),
        ("folder.csv", "is a directory"),
        ("../../etc/passwd", "outside the allowed directories"),
        ("/etc/passwd", "outside the allowed directories"),
        ("link.csv", "outside the allowed directories"),
        ("linked/passwd", "outside the allowed directories"),
        ("pipe.csv", "pipe, socket or device"),
    ],
)
def test_path_that_may_not_be_read_is_refused(
    stack: Stack, refuses: Callable[[Refused], None], kind: str, source: str, says: str
) -> None:
    (stack.data / "folder.csv").mkdir(exist_ok=True)
    for link, target in (("link.csv", "/etc/passwd"), ("linked", "/etc")):
        if not (stack.data / link).is_symlink():
            (stack.data / link).symlink_to(target)
    if not (stack.data / "pipe.csv").exists():
        os.mkfifo(stack.data / "pipe.csv")

    refuses(Refused(kind=kind, request={"dataset": source}, field="dataset", says=(says,)))


def _failed(stack: Stack, kind: str, request: Mapping[str, Any]) -> Job:
    return stack.wait_for(stack.platform.submit(kind, request).id)


def _assert_failed_at_once(stack: Stack, job: Job, says: tuple[str, ...]) -> None:
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error is not None
    assert job.error.type in {"InvalidDataset", "InvalidRequest"}
    for words in says:
        assert words in job.error.message
    assert not list((stack.directory / "platform" / "scratch").glob("*"))


@pytest.mark.parametrize("case", NO_GOOD_DATA.values(), ids=NO_GOOD_DATA.keys())
def test_bad_file_that_came_past_the_door_fails_the_job_at_once(
    stack: Stack, stranger: Celery, case: BadFile
) -> None:
    (stack.data / case.name).write_bytes(case.content)
    request = {"dataset": case.name, "detector": "ecod", **case.request}

    sent = stranger.send_task("pynomaly.tasks.detect_anomalies", kwargs=request, queue="anomaly_detection")

    wait_until(lambda: stack.platform.store.find_job(sent.id), 30.0, "the worker to take the message in")
    _assert_failed_at_once(stack, stack.wait_for(sent.id), case.says)


LONG = "1,2\n" * 600_000  # longer than the door reads
IN_THE_WORK = {
    "ragged": BadFile(
        name="long_ragged.csv", content=f"a,b\n{LONG}1,2,3\n".encode(), says=("line 600002: has 3 fields",)
    ),
    "bad-byte": BadFile(
        name="long_latin.csv",
        content=f"a,b\n{LONG}".encode() + b"\xff,1\n",
        says=("not UTF-8: byte 0xff at offset 2400004",),
    ),
    "nul": BadFile(name="long_nul.csv", content=f"a,b\n{LONG}".encode() + b"\0,1\n", says=("NUL",)),
    "all-missing": BadFile(
        name="long_missing.csv",
        content=f"a,b\n{LONG.replace('1', 'NaN')}".encode(),
        says=("a: every value is missing",),
        request={"columns": ["a"]},
    ),
    "no-json": BadFile(
        name="long.jsonl",
        content=b'{"a": 1}\n' * 300_000 + b'{"a": \n',
        says=("line 300001: is not valid JSON",),
    ),
    "no-such-key": BadFile(
        name="long_keys.jsonl",
        content=b'{"a": 1}\n{"b": 2}\n' * 150_000,
        says=("there is no column 'zz'; the file has a, b",),
        request={"columns": ["zz"]},
    ),
    "cut-gzip": BadFile(
        name="long.csv.gz",
        content=gzip.compress(f"a,b\n{LONG * 3}".encode(), 1)[:-20],
        says=("the gzip data ends too early",),
    ),
    "damaged-parquet": BadFile(
        name="damaged.parquet",
        content=b"PAR1" + bytes(64) + (32).to_bytes(4, "little") + b"PAR1",
        says=("damaged Parquet",),
    ),
    "parquet-of-missing-values": BadFile(
        name="missing.parquet",
        content=_parquet(pa.table({"a": pa.array([None] * 50, pa.float64())})),
        says=("a: every value is missing",),
    ),
    "labels-that-are-none": BadFile(
        name="labels.csv",
        content=_rows("a,b", *[f"{i},{i % 7}" for i in range(50)]),
        says=("a label is 1 or 0",),
        request={"label_column": "b"},
    ),
}


@pytest.mark.parametrize("case", IN_THE_WORK.values(), ids=IN_THE_WORK.keys())
def test_data_that_only_the_work_can_judge_fails_the_job_at_once(stack: Stack, case: BadFile) -> None:
    (stack.data / case.name).write_bytes(case.content)

    job = _failed(stack, "detect_anomalies", {"dataset": case.name, "detector": "ecod", **case.request})

    _assert_failed_at_once(stack, job, case.says)


def test_file_that_goes_bad_between_door_and_work_fails_the_job(stack: Stack) -> None:
    path = Path(stack.csv("turns_bad.csv", [[i, i % 7] for i in range(50)]))
    job = stack.platform.submit("detect_anomalies", {"dataset": path.name}, delay_s=1.0)

    path.write_bytes(_rows("a,b", "1,2", "1,2,3"))

    _assert_failed_at_once(stack, stack.wait_for(job.id), ("line 3: has 3 fields",))


@pytest.mark.parametrize("name", ["header-only", "ragged", "duplicate-columns", "no-such-column", "one-row"])
def test_web_answers_422_with_the_field_and_stores_nothing(stack: Stack, web: Web, name: str) -> None:
    case = NO_GOOD_DATA[name]
    (stack.data / case.name).write_bytes(case.content)
    request = {"dataset": case.name, "detector": "ecod", **case.request}
    n_jobs = stack.platform.store.count_jobs(JobFilter())

    answer = web.client.post("/api/v1/jobs", json={"kind": "detect_anomalies", "request": request})

    assert answer.status_code == 422
    [problem] = answer.json()["errors"]
    assert problem["field"].removeprefix("request.") == case.field
    for words in case.says:
        assert words in problem["message"]
    assert stack.platform.store.count_jobs(JobFilter()) == n_jobs


def test_upload_of_a_bad_file_is_refused_and_not_kept(stack: Stack, web: Web) -> None:
    case = NO_GOOD_DATA["ragged"]

    answer = web.client.post("/api/v1/datasets", files={"file": (case.name, case.content)})

    assert answer.status_code == 422
    assert "line 302: has 4 fields" in answer.json()["detail"]
    assert web.client.get("/api/v1/datasets").json() == {"datasets": []}


def test_column_names_with_markup_and_formulas_are_data(stack: Stack) -> None:
    names = ["<script>alert(1)</script>", "=cmd()", "a b; DROP TABLE jobs", "ünïcödé"]
    path = stack.data / "names.csv"
    rows = [[i % 9, i % 7, i % 5, i % 3] for i in range(200)]
    path.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]), "utf-8")

    job = stack.wait_for(
        stack.platform.submit("detect_anomalies", {"dataset": "names.csv", "detector": "ecod"}).id
    )
    report = stack.wait_for(stack.platform.submit("generate_report", {"job": job.id}).id)

    assert (job.state, report.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert stack.platform.store.get_result(job.id).detail["columns"]["used"] == names
    artifacts = stack.platform.store.get_result(report.id).artifacts
    assert b"<script>" not in stack.platform.artifacts.read_bytes(artifacts["report.html"])
    table = stack.platform.artifacts.read_bytes(artifacts["anomalies.csv"]).decode()
    assert not any(cell.strip('"').startswith("=") for line in table.splitlines() for cell in line.split(","))


def test_report_on_a_job_that_does_not_exist_fails_with_the_way_out(stack: Stack) -> None:
    job = _failed(stack, "generate_report", {"job": "no-such-job"})

    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error is not None
    assert "no-such-job has no result" in job.error.message


def test_channel_that_the_settings_do_not_name_fails_with_the_known_ones(stack: Stack) -> None:
    job = _failed(stack, "send_notification", {"body": "x", "channels": "pager"})

    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error is not None
    assert "pager" in job.error.message
    assert "log" in job.error.message


@pytest.mark.parametrize(
    ("args", "kwargs", "field", "says"),
    [
        (("good.csv", "ecod", "surplus"), {}, "args", "at most 2"),
        (("good.csv",), {"dataset": "good.csv"}, "dataset", "both by position and by name"),
        ((["good.csv"],), {}, "dataset", "string"),
    ],
)
def test_bad_positional_arguments_of_delay_are_refused(
    stack: Stack, args: tuple[Any, ...], kwargs: dict[str, Any], field: str, says: str
) -> None:
    n_jobs = stack.platform.store.count_jobs(JobFilter())

    with pytest.raises(InvalidInput) as raised:
        detect_anomalies.delay(*args, **kwargs)

    assert [problem.field for problem in raised.value.problems] == [field]
    assert says in str(raised.value)
    assert stack.platform.store.count_jobs(JobFilter()) == n_jobs


@pytest.mark.parametrize("task_id", ["../../etc/cron.d/x", "a/b", " ", "a\0b", "x" * 201, ".hidden", "a\n"])
def test_task_id_that_could_be_a_path_is_refused(stack: Stack, task_id: str) -> None:
    n_jobs = stack.platform.store.count_jobs(JobFilter())

    with pytest.raises(InvalidInput, match="task_id"):
        detect_anomalies.apply_async(("good.csv",), task_id=task_id)

    assert stack.platform.store.count_jobs(JobFilter()) == n_jobs


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ({"countdown": -1}, "delay_s"),
        ({"countdown": "soon"}, "delay_s"),
        ({"eta": "tomorrow"}, "run_at"),
        ({"expires": -1}, "deadline_at"),
        ({"expires": 1e300}, "expires"),
        ({"serializer": "pickle"}, "serializer"),
        ({"headers": {"x": object()}}, "headers"),
        ({"time_limit": 10**9}, "time_limit_s"),
    ],
)
def test_bad_celery_option_is_refused(stack: Stack, option: dict[str, Any], field: str) -> None:
    n_jobs = stack.platform.store.count_jobs(JobFilter())

    with pytest.raises(InvalidInput) as raised:
        detect_anomalies.apply_async(("good.csv",), **option)

    assert [problem.field for problem in raised.value.problems] == [field]
    assert stack.platform.store.count_jobs(JobFilter()) == n_jobs


def test_one_bad_request_of_many_stores_none(stack: Stack) -> None:
    n_jobs = stack.platform.store.count_jobs(JobFilter())

    with pytest.raises(InvalidInput, match="contamination"):
        stack.platform.submit_many("detect_anomalies", [GOOD, {**GOOD, "contamination": 0.6}, GOOD])

    assert stack.platform.store.count_jobs(JobFilter()) == n_jobs


def test_unknown_kind_names_the_known_ones(stack: Stack) -> None:
    with pytest.raises(InvalidInput, match="detect_anomalies") as raised:
        stack.platform.submit("detect_anomaly", GOOD)

    assert raised.value.problems[0].field == "kind"


def test_every_problem_of_a_request_is_named_at_once(stack: Stack) -> None:
    with pytest.raises(InvalidInput) as raised:
        detect_anomalies.delay("", contamination=2, seed=-1)

    assert {problem.field for problem in raised.value.problems} == {"dataset", "contamination", "seed"}


def test_secret_in_the_path_of_a_settings_root_is_never_read(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "outside.csv").write_bytes(_rows("a,b", "1,2"))

    with pytest.raises(InvalidInput, match="outside"):
        stack.platform.submit("profile_dataset", {"dataset": str(tmp_path / "outside.csv")})

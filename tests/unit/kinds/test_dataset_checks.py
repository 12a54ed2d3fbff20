"""What a request asks of its dataset, judged before a job is stored: as the work judges it, or not at all."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.datasets import DatasetOpener
from pynomaly_tasks.errors import InvalidDataset, InvalidInput, InvalidRequest
from pynomaly_tasks.kinds import KINDS
from support.odd_files import csv_files, json_files

NUMBERS = "a,b\n" + "".join(f"{i % 7},{i * i % 11}\n" for i in range(60))
DATES = "t,a\n" + "".join(f"2024-01-01 00:{i:02d}:00,{i % 5}\n" for i in range(60))
TEXTS = "a,b\n" + "x,y\nx,y\nz,y\n" * 20
DETECT, PROFILE = "detect_anomalies", "profile_dataset"


@dataclass(frozen=True)
class Attempt:
    scratch: Path
    job_id: str = "job"
    attempt: int = 1

    def progress(self, current: int, total: int, status: str) -> None:
        return None

    def checkpoint(self) -> None:
        return None


class Both:
    """The door's and the work's answer to a request on one file: the error, or None."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self._scratch = directory / "scratch"
        for folder in (self.data, self._scratch):
            folder.mkdir()
        self._datasets = DatasetOpener([self.data], 2_000, 1_000_000, 64, directory / "temporary")

    def door(self, kind: str, request: dict[str, Any]) -> InvalidInput | None:
        check = KINDS[kind].check
        assert check is not None
        try:
            check(KINDS[kind].request_model.model_validate(request), self._datasets)
        except InvalidInput as error:
            return error
        return None

    def work(self, kind: str, request: dict[str, Any]) -> InvalidInput | None:
        services: Any = SimpleNamespace(datasets=self._datasets)
        scratch = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            KINDS[kind].perform(Attempt(scratch), KINDS[kind].request_model.model_validate(request), services)
        except InvalidInput as error:
            return error
        return None


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


@pytest.mark.parametrize(
    ("kind", "text", "request_", "field", "said"),
    [
        (DETECT, NUMBERS, {"columns": ["a", "zz"]}, "columns", "no column 'zz'; the file has a, b"),
        (DETECT, NUMBERS, {"timestamp_column": "zz"}, "timestamp_column", "no column 'zz'"),
        (DETECT, NUMBERS, {"label_column": "zz"}, "label_column", "no column 'zz'"),
        (DETECT, NUMBERS, {"columns": ["a"], "label_column": "a"}, "columns", "'a' is the timestamp or the"),
        (DETECT, NUMBERS, {"timestamp_column": "a"}, "timestamp_column", "'a' holds number values"),
        (DETECT, TEXTS, {"timestamp_column": "a"}, "timestamp_column", "'a' holds text values"),
        (DETECT, TEXTS, {}, "columns", "a: text; name it in columns"),
        (DETECT, TEXTS, {"columns": ["b"]}, "columns", "b: every value is the same"),
        (DETECT, "a\n" + "NaN\n" * 50, {}, "columns", "a: every value is missing"),
        (DETECT, "a,b\n" + "NA,1\nNA,2\n" * 9, {"columns": ["a"]}, "columns", "a: every value is missing"),
        (DETECT, "a,b\n1,2\n", {}, "columns", "a: every value is the same; b: every value is the same"),
        (DETECT, "a,b\n" + "7,x\n" * 3_000, {}, "columns", "a: every value is the same; b: text"),
        (DETECT, "t\n" + "2024-01-01\n2024-01-02\n" * 9, {}, "columns", "there are no others"),
        (DETECT, "a,b\n1,2\n2,1\n3,3\n", {}, "dataset", "3 rows; at least 10"),
        (DETECT, "a,b\n1,2\n2,1\n3,3\n", {"detector": "ecod"}, "dataset", "3 rows; at least 10"),
        (
            DETECT,
            NUMBERS,
            {"label_windows": [["2024-01-01", "2024-01-02"]]},
            "label_windows",
            "windows need a timestamp column",
        ),
        ("detect_ensemble", "a,b\n1,2\n2,1\n", {}, "dataset", "2 rows; at least 10"),
        ("detect_ensemble", NUMBERS, {"columns": ["zz"]}, "columns", "no column 'zz'"),
        (PROFILE, NUMBERS, {"columns": ["zz"]}, "dataset", "has no column 'zz'; it has 'a', 'b'"),
        (PROFILE, "a,b\n", {}, "dataset", "has column names but no rows"),
    ],
)
def test_what_the_file_cannot_give_is_refused_by_both_in_the_same_words(
    kind: str, text: str, request_: dict[str, Any], field: str, said: str, both: Both
) -> None:
    (both.data / "x.csv").write_text(text)

    door = both.door(kind, {"dataset": "x.csv", **request_})
    work = both.work(kind, {"dataset": "x.csv", **request_})

    assert door is not None
    assert said in str(door)
    assert [problem.field for problem in door.problems] == [field]
    assert (type(door), str(door)) == (type(work), str(work))


@pytest.mark.parametrize(
    ("kind", "text", "request_"),
    [
        (DETECT, DATES, {}),
        (DETECT, DATES, {"columns": ["t"]}),
        (DETECT, TEXTS, {"columns": ["a"]}),
        (DETECT, "t,x\n" + "1,2\n3,4\n" * 9, {"label_windows": None}),
        (PROFILE, "a,b\n1,2\n", {}),
        (PROFILE, "a\nNaN\nNaN\n", {"columns": ["a"]}),
    ],
)
def test_what_can_be_worked_on_passes(kind: str, text: str, request_: dict[str, Any], both: Both) -> None:
    (both.data / "x.csv").write_text(text)

    assert both.door(kind, {"dataset": "x.csv", **request_}) is None
    assert both.work(kind, {"dataset": "x.csv", **request_}) is None


def test_keys_of_json_lines_are_known_when_all_lines_are_read(both: Both) -> None:
    (both.data / "x.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"b": 2}\n' * 20)

    assert both.door(DETECT, {"dataset": "x.jsonl", "columns": ["a", "b"]}) is None
    assert "no column 'c'; the file has a, b" in str(
        both.door(DETECT, {"dataset": "x.jsonl", "columns": ["c"]})
    )


def test_columns_of_a_long_file_are_known_by_its_first_line(both: Both) -> None:
    (both.data / "x.csv").write_text("a,b\n" + "x,y\n" * 1_000_000)

    missing = both.door(DETECT, {"dataset": "x.csv", "columns": ["c"]})
    texts = both.door(DETECT, {"dataset": "x.csv"})
    constant = both.door(DETECT, {"dataset": "x.csv", "columns": ["a"]})

    assert isinstance(missing, InvalidRequest)
    assert isinstance(texts, InvalidDataset)
    assert constant is None


def test_refusal_is_never_one_that_only_the_file_as_it_was_deserves(both: Both) -> None:
    path = both.data / "x.csv"
    path.write_text("a,b\n" + "1,2\n3,4\n" * 9)
    before = path.stat()
    assert both.door(DETECT, {"dataset": "x.csv", "columns": ["a"]}) is None

    with path.open("r+") as file:
        file.write("a,c")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert both.door(DETECT, {"dataset": "x.csv", "columns": ["c"]}) is None
    assert "the file has a, c" in str(both.door(DETECT, {"dataset": "x.csv", "columns": ["b"]}))


REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "columns": st.lists(st.sampled_from(["a", "b", "A", "zz"]), min_size=1, max_size=2, unique=True),
        "timestamp_column": st.sampled_from(["a", "b", "c", "zz"]),
        "label_column": st.sampled_from(["a", "b", "zz"]),
        "label_windows": st.just([["2014-01-01", "2015-01-01"]]),
        "detector": st.sampled_from(["ecod", "rolling_robust_z"]),
    },
).filter(lambda request: not {"label_column", "label_windows"} <= set(request))


@given(st.one_of(csv_files(), json_files()), st.sampled_from(["x.csv", "x.jsonl"]), REQUESTS)
def test_what_the_door_refuses_the_work_refuses_too(
    content: bytes, name: str, request: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        both = Both(Path(folder))
        (both.data / name).write_bytes(content)

        door = both.door(DETECT, {"dataset": name, **request})

        # Which of several reasons comes first may differ: the door is not certain of every one.
        assert door is None or both.work(DETECT, {"dataset": name, **request}) is not None

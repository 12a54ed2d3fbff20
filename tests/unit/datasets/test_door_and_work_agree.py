"""What the door refuses, the work refuses in the same words; what the door says of a file is so."""

from __future__ import annotations

import contextlib
import gzip
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.datasets import Dataset, DatasetOpener
from pynomaly_tasks.datasets.preview import Preview
from pynomaly_tasks.errors import InvalidDataset
from support.odd_files import csv_files, damaged, json_files

ROOT = Path(__file__).parents[3]
REAL_FILES = sorted(
    path
    for folder in ("examples/data", "tests/data/profiling")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".csv", ".parquet", ".jsonl"}
)


@dataclass
class Judged:
    """What the two said of one file; None where it was accepted."""

    door: InvalidDataset | None
    work: InvalidDataset | None


def judged(opener: DatasetOpener, name: str) -> Judged:
    """Both verdicts; where both accept, what the door saw is compared with the rows."""
    seen: list[Preview] = []
    door = work = None
    try:
        opener.check(name, seen.append)
    except InvalidDataset as error:
        door = error
    try:
        with opener.open(name) as dataset:
            for preview in seen:
                confirm(preview, dataset)
    except InvalidDataset as error:
        work = error
    return Judged(door, work)


def confirm(preview: Preview, dataset: Dataset) -> None:
    """Every word of the preview, by the rows."""
    kinds = {column.name: column.kind for column in dataset.columns}
    assert preview.names is None or set(preview.names) == set(kinds)
    assert preview.n_rows in (None, dataset.n_rows)
    assert not [name for name in preview.not_numbers if kinds[name] in ("number", "boolean")]
    assert not [name for name in preview.not_dates if kinds[name] == "datetime"]
    for name in preview.valueless | preview.constant:
        quoted = '"' + name.replace('"', '""') + '"'
        ((n_different,),) = dataset.query(f"SELECT count(DISTINCT {quoted}) FROM data")
        assert n_different <= (name in preview.constant)  # -nan is a value to the door, missing to the work


def without_counts(error: InvalidDataset) -> str:
    """The message; lines and fields are counted differently around line breaks in quotes."""
    return re.sub(r"\d+|byte 0x[0-9a-f]+", "n", str(error))


@contextlib.contextmanager
def opener_of(content: bytes, name: str) -> Iterator[DatasetOpener]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(content)
        yield DatasetOpener([Path(folder)], 20, 1_000, 64, Path(folder, "temporary"))


FILES = st.one_of(
    st.tuples(st.one_of(csv_files(), damaged(csv_files())), st.just("x.csv")),
    st.tuples(st.one_of(json_files(), damaged(json_files())), st.just("x.jsonl")),
)


@given(FILES)
def test_what_the_door_refuses_the_work_refuses_too(file: tuple[bytes, str]) -> None:
    with opener_of(*file) as opener:
        verdict = judged(opener, file[1])

    assert verdict.door is None or verdict.work is not None


@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
def test_real_file_passes_the_door_and_is_as_the_door_says(path: Path, tmp_path: Path) -> None:
    opener = DatasetOpener([ROOT], 2_000, 10**9, 256, tmp_path)

    verdict = judged(opener, str(path))

    assert verdict == Judged(None, None)


WIDE = ",".join(f"c{i}" for i in range(10_000)).encode()
BROKEN = {
    "header.csv": (b"a,b\n", "has column names but no rows"),
    "header-and-blank-lines.csv": (b"a,b\r\n\r\n\r\n", "has column names but no rows"),
    "ragged.csv": (b"a,b\n1,2\n\n1,2,3\n", "line 4: has 3 fields where the first line names 2 columns"),
    "short.csv": (b"a,b\n1,2\n1\n", "line 3: has 1 fields"),
    "ragged-late.csv": (b"a,b\n" + b"1,2\n" * 60_000 + b"1,2,3\n1,2\n", "line 60002: has 3 fields"),
    "ragged-and-quoted.csv": (b'a,b\n"1","2, 3"\n"1",2,3\n', "line 3: has 3 fields"),
    "ragged-in-one-column.csv": (b"a\n1\n1,2\n", "line 3: has 2 fields"),
    "twice.csv": (b"a,b,a\n1,2,3\n", "columns of the same name"),
    "capitals.csv": (b"a,A\n1,2\n", "columns of the same name"),
    "wide.csv": (WIDE + b"\n" + WIDE.replace(b"c", b""), "has 10,000 columns, the limit is 2,000"),
    "numbers.csv": (b"5.1,3.5\n4.9,3\n", "starts with a line of numbers"),
    "nameless.csv": (b",\n1,2\n", "without column names"),
    "open-quote.csv": (b'a,b\n1,"x\n2,y\n', "line 2: a quoted value is never closed"),
    "deep-latin.csv": (b"a,b\n" + b"1,x\n" * 300_000 + b"1,\xe9\n", "byte 0xe9 at offset 1200006"),
    "deep-nul.csv": (b"a,b\n" + b"1,x\n" * 40_000 + b"1,c\x00\n", "is not text"),
    "cut.jsonl": (b'{"a": 1}\n{"a": \n{"a": 3}\n', "line 2: is not valid JSON: Expecting value"),
    "scalar.jsonl": (b'{"a": 1}\n\n5\n', "line 3: is not a JSON object"),
    "same-key.jsonl": (b'{"A": 1, "a": 2}\n', "columns of the same name"),
    "deep.jsonl": (b'{"a":' + b"[" * 9_999 + b"]" * 9_999 + b"}\n", "nested deeper than 128 levels"),
    "no-keys.jsonl": (b"{}\n{}\n", "at least one key"),
    "latin.jsonl": (b'{"a": "x"}\n{"a": "caf\xe9"}\n', "byte 0xe9 at offset 21"),
    "ragged.csv.gz": (gzip.compress(b"a,b\n1,2\n1\n"), "line 3: has 1 fields"),
    "cut.csv.gz": (gzip.compress(b"a,b\n1,2\n" * 999)[:-30], "cut off: the gzip data ends too early"),
    "nothing.csv.gz": (gzip.compress(b""), "is empty when unpacked"),
    "binary.csv.gz": (gzip.compress(bytes(range(256))), "is not text"),
    "cut.parquet": (b"PAR1" + bytes(64), "is damaged Parquet"),
    "footer.parquet": (b"PAR1" + bytes(64) + b"\xff\xff\0\0PAR1", "is damaged Parquet"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_refused_by_both_in_the_same_words(
    name: str, root: Path, opener: DatasetOpener
) -> None:
    content, said = BROKEN[name]
    (root / name).write_bytes(content)

    verdict = judged(opener, name)

    assert verdict.door is not None
    assert verdict.work is not None
    assert said in str(verdict.door)
    assert [problem.field for problem in verdict.door.problems] == ["dataset"]
    assert [problem.field for problem in verdict.work.problems] == ["dataset"]
    if "parquet" not in name and "nul" not in name:
        assert without_counts(verdict.door) == without_counts(verdict.work)


FINE = {
    "one-row.csv": b"a,b\n1,2",
    "surplus-delimiters.csv": b"a,b\n1,2,\n3,4,,\n",
    "spaces-around-quotes.csv": b'a,b\n1, "x, y"\n2,"z" \n',
    "quote-in-a-cell.csv": b'a,b\n1,5"\n2,6"\n',
    "line-break-in-quotes.csv": b'a,b\r\n1,"x\ny"\r\n2,"x\r\ny"\r\n',
    "old-mac.csv": b"a,b\r1,2\r3,4\r",
    "line-separator-in-a-name.csv": "a\u2028b,c\n1,2\n".encode(),
    "last-line-in-quotes.csv": b'a\n"1"\n"2"',
    "blank-lines-of-one-column.csv": b"a\n\n1\n\n",
    "commas-at-the-end.jsonl": b'{"a": [1,],}\n',
    "numbers-of-c.jsonl": b'{"a": nan, "b": -INF, "c": "\\nan"}\n{"a": NaN}\n',
    "long-number.jsonl": b'{"a": ' + b"9" * 5_000 + b"}\n",
    "null-and-blanks.jsonl": b'{"a": 1}\nnull\n \n\x0c\n{"b": 2}',
    "byte-order-mark.jsonl": b'\xef\xbb\xbf{"a": 1}\n',
}


@pytest.mark.parametrize("name", FINE)
def test_odd_file_that_the_work_can_read_passes_the_door(
    name: str, root: Path, opener: DatasetOpener
) -> None:
    (root / name).write_bytes(FINE[name])

    assert judged(opener, name) == Judged(None, None)

"""What is refused before a job is stored: by place, by kind of file, by its first bytes."""

from __future__ import annotations

import gzip
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pynomaly_tasks.datasets import DatasetOpener
from pynomaly_tasks.errors import InvalidDataset

CSV = "a,b\n1,2\n"


def test_relative_path_is_found_under_each_root(root: Path, opener: DatasetOpener) -> None:
    (root / "deep").mkdir()
    (root / "deep" / "x.csv").write_text(CSV)

    checked = opener.check("deep/x.csv")

    assert checked.path == root / "deep" / "x.csv"
    assert checked.size_bytes == 8
    assert opener.check("flights.csv").path.name == "flights.csv"


def test_absolute_path_under_a_root_is_allowed(root: Path, opener: DatasetOpener) -> None:
    (root / "x.csv").write_text(CSV)

    assert opener.check(str(root / "x.csv")).format == "csv"


def test_root_that_is_a_symlink_is_a_root(root: Path, tmp_path: Path) -> None:
    (root / "x.csv").write_text(CSV)
    (tmp_path / "link").symlink_to(root)
    opener = DatasetOpener([tmp_path / "link"], 10, 10, 64, tmp_path / "t")

    assert opener.check(str(tmp_path / "link" / "x.csv")).path == root / "x.csv"


@pytest.mark.parametrize(
    "source",
    ["../../etc/passwd", "/etc/passwd", "../outside.csv", "/no/such/file.csv", "a/../../outside.csv"],
)
def test_path_outside_the_roots_is_refused_without_saying_whether_it_exists(
    source: str, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.csv").write_text(CSV)
    opener = DatasetOpener([root], 10, 10, 64, tmp_path / "t")

    with pytest.raises(InvalidDataset, match=f"outside the allowed directories.*{re.escape(str(root))}"):
        opener.check(source)


def test_symlink_that_leads_out_is_refused(root: Path, tmp_path: Path, opener: DatasetOpener) -> None:
    (tmp_path / "secret.csv").write_text(CSV)
    (root / "innocent.csv").symlink_to(tmp_path / "secret.csv")

    with pytest.raises(InvalidDataset, match=r"outside the allowed directories|does not exist"):
        opener.check("innocent.csv")
    with pytest.raises(InvalidDataset, match="outside the allowed directories"):
        opener.check(str(root / "innocent.csv"))


def test_symlink_within_the_root_is_followed(root: Path, opener: DatasetOpener) -> None:
    (root / "real.csv").write_text(CSV)
    (root / "latest.csv").symlink_to("real.csv")

    assert opener.check("latest.csv").path == root / "real.csv"


def test_missing_file_directory_pipe_and_socket_are_refused(root: Path, opener: DatasetOpener) -> None:
    (root / "folder.csv").mkdir()
    os.mkfifo(root / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s.csv"))

        with pytest.raises(InvalidDataset, match="does not exist"):
            opener.check("nothing.csv")
        with pytest.raises(InvalidDataset, match="is a directory"):
            opener.check("folder.csv")
        with pytest.raises(InvalidDataset, match="pipe, socket or device"):
            opener.check("pipe.csv")
        with pytest.raises(InvalidDataset, match="pipe, socket or device"):
            opener.check("s.csv")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "is empty"),
        ("a\0b.csv", "NUL"),
        ("s3://bucket/x.csv", "is a URL"),
        ("x" * 5_000, "cannot be resolved"),
        ("loop.csv", "cannot be resolved|does not exist"),
    ],
)
def test_source_that_is_no_path_is_refused(source: str, said: str, root: Path, opener: DatasetOpener) -> None:
    (root / "loop.csv").symlink_to("loop.csv")

    with pytest.raises(InvalidDataset, match=said):
        opener.check(source)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", b"", "empty"),
        ("x.csv", b" \n\n", "nothing but blanks"),
        ("x.exe", b"a,b\n", "no known suffix"),
        ("x", b"a,b\n", "no known suffix"),
        ("x.csv", b"a,b\n\x00\x01\x02", "not text: NUL byte at offset 4"),
        ("x.csv", b"PK\x03\x04rest", "Excel"),
        ("x.csv", b"PAR1rest", "rename it to end in .parquet"),
        ("x.csv", "a,b\n".encode("utf-16"), "UTF-16"),
        ("x.csv", "a,ü\n".encode("latin-1"), "byte 0xfc at offset 2.*iconv"),
        ("x.csv", b"\x1f\x8b\x08rest", "does not end in .gz"),
        ("x.csv.gz", b"a,b\n", "is not gzip"),
        ("x.parquet", b"a,b\n1,2\n3,4\n5,6\n", "PAR1"),
        ("x.parquet", b"PAR1", "PAR1"),
        ("x.json", b"[{}]", "jq -c"),
        ("x.jsonl", b"1\n", "not JSON lines"),
    ],
)
def test_content_that_is_not_what_the_name_says_is_refused(
    name: str, content: bytes, said: str, root: Path, opener: DatasetOpener
) -> None:
    (root / name).write_bytes(content)

    with pytest.raises(InvalidDataset, match=said) as refusal:
        opener.check(name)

    assert [problem.field for problem in refusal.value.problems] == ["dataset"]


def test_door_loads_no_library_that_reads_data(root: Path, tmp_path: Path) -> None:
    (root / "x.csv").write_text(CSV)
    (root / "x.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    (root / "x.jsonl").write_text('{"a": 1}\n')
    (root / "x.parquet").write_bytes(b"PAR1" + bytes(64) + b"\x10\0\0\0PAR1")
    program = f"""
import sys
from pathlib import Path
from pynomaly_tasks.datasets import DatasetOpener
from pynomaly_tasks.errors import InvalidInput
from pynomaly_tasks.kinds import KINDS
datasets = DatasetOpener([Path({str(root)!r})], 9, 9, 64, Path({str(tmp_path)!r}))
for name in ("x.csv", "x.csv.gz", "x.jsonl", "x.parquet"):
    datasets.check(name)
    for kind in ("detect_anomalies", "detect_ensemble", "profile_dataset"):
        request = KINDS[kind].request_model.model_validate({{"dataset": name}})
        try:
            KINDS[kind].check(request, datasets)
        except InvalidInput as error:
            assert "at least 10" in str(error) or "no column is left" in str(error), error
print(sorted({{"duckdb", "pyarrow", "numpy", "pandas"}} & set(sys.modules)))
"""

    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert output.strip() == "[]"
    assert not list(tmp_path.glob("dataset-*"))

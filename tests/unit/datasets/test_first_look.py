"""How far the door looks, how often it reads, and what it remembers."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pynomaly_tasks.datasets import DatasetOpener, first_look
from pynomaly_tasks.datasets.preview import Preview
from pynomaly_tasks.errors import InvalidDataset

Look = Callable[[str], Preview]
ROW = 'å,"1, ""2""\r\n3",4\r\n'


@pytest.fixture
def look(opener: DatasetOpener) -> Look:
    def look_(name: str) -> Preview:
        seen: list[Preview] = []
        opener.check(name, seen.append)
        return seen[-1]

    return look_


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, one entry a reading."""
    names: list[str] = []
    real = first_look.look_at

    def counted(checked: first_look.Source, fd: int, limits: first_look.Limits) -> Preview:
        names.append(checked.path.name)
        return real(checked, fd, limits)

    monkeypatch.setattr(first_look, "look_at", counted)
    return names


def test_short_file_is_known_to_its_end(root: Path, look: Look) -> None:
    rows = "".join(f"{i},NA,7,x{i},2024-01-{i % 28 + 1:02d}\n" for i in range(5_000))
    (root / "x.csv").write_text("number,empty,constant,text,date\n" + rows)

    assert look("x.csv") == Preview(
        names=("number", "empty", "constant", "text", "date"),
        n_rows=5_000,
        valueless=frozenset({"empty"}),
        constant=frozenset({"constant"}),
        not_numbers=frozenset({"text", "date"}),
        not_dates=frozenset({"number", "constant", "text"}),
    )


def test_value_that_comes_late_is_seen(root: Path, look: Look) -> None:
    (root / "x.csv").write_text("a,b\n" + "NA,7\n" * 20_000 + "1,8\n2,7\n")
    (root / "quoted.csv").write_text('a,b\n"NA","7"\n' + "NA,7\n" * 20_000 + "1,8\n2,7\n")
    (root / "x.jsonl").write_text('{"a":null,"b":7}\n' * 20_000 + '{"a":1,"b":8}\n{"a":2}\n')

    for name in ("x.csv", "quoted.csv", "x.jsonl"):
        assert not look(name).valueless | look(name).constant, name


def test_json_lines_are_known_by_the_types_of_their_values(root: Path, look: Look) -> None:
    line = '{"n":%d,"s":"%d","f":true,"d":"2024-01-01","o":{"k":1},"m":%s,"e":null,"c":5}\n'
    (root / "x.jsonl").write_text("".join(line % (i, i, ["1", '"x"'][i % 2]) for i in range(50)))

    assert look("x.jsonl") == Preview(
        names=("n", "s", "f", "d", "o", "m", "e", "c"),
        n_rows=50,
        valueless=frozenset("e"),
        constant=frozenset("fdc"),
        not_numbers=frozenset("sdom"),
        not_dates=frozenset("nsfomc"),
    )


def test_long_file_is_known_by_its_start(root: Path, look: Look) -> None:
    (root / "x.csv").write_text("a,b,c\n" + "x,1,NA\n" * 400_000)

    assert look("x.csv") == Preview(
        names=("a", "b", "c"), not_numbers=frozenset("a"), not_dates=frozenset("ab")
    )


@pytest.mark.large
@pytest.mark.parametrize("padding", range(len(ROW.encode()) + 1))
def test_long_file_may_be_cut_anywhere(padding: int, root: Path, look: Look) -> None:
    head = f"{'a' * (padding + 1)},b,c\r\n"
    text = head + ROW * (first_look.WHOLE_BYTES // len(ROW.encode()) + 9)
    (root / "x.csv").write_bytes(text.encode())
    (root / "x.csv.gz").write_bytes(gzip.compress(text.encode(), 1))

    for name in ("x.csv", "x.csv.gz"):
        assert look(name).names == ("a" * (padding + 1), "b", "c")
        assert look(name).n_rows is None


@pytest.mark.large
def test_wrong_line_at_the_start_of_a_long_file_is_refused_and_one_far_on_is_left_to_the_work(
    root: Path, opener: DatasetOpener
) -> None:
    (root / "start.csv").write_text("a,b\n1\n" + "1,2\n" * 600_000)
    (root / "end.csv").write_text("a,b\n" + "1,2\n" * 600_000 + "1\n")
    (root / "start.jsonl").write_text('{"a":1}\n{"a"}\n' + '{"a":1}\n' * 300_000)
    (root / "end.jsonl").write_text('{"a":1}\n' * 300_000 + '{"a"}\n')

    for name, line in (("start.csv", 2), ("start.jsonl", 2)):
        with pytest.raises(InvalidDataset, match=f"line {line}:"):
            opener.check(name)
    for name, line in (("end.csv", 600_002), ("end.jsonl", 300_001)):
        opener.check(name)
        with pytest.raises(InvalidDataset, match=f"line {line}:"):
            opener.open(name)


def test_file_is_read_once_for_many_jobs(root: Path, opener: DatasetOpener, readings: list[str]) -> None:
    (root / "x.csv").write_text("a,b\n1,2\n")

    for _ in range(1_000):
        opener.check("x.csv")

    assert readings == ["x.csv"]


def test_file_that_was_written_to_or_replaced_is_read_again(
    root: Path, opener: DatasetOpener, look: Look, readings: list[str]
) -> None:
    (root / "x.csv").write_text("a,b\n1,2\n")
    (root / "other.csv").write_text("c,d\n1,2\n")
    names = [look("x.csv").names]

    (root / "x.csv").write_text("a,bb\n1,2\n")
    names.append(look("x.csv").names)
    (root / "other.csv").replace(root / "x.csv")
    names.append(look("x.csv").names)

    assert names == [("a", "b"), ("a", "bb"), ("c", "d")]
    assert len(readings) == 3


def test_refusal_is_not_remembered(root: Path, opener: DatasetOpener, readings: list[str]) -> None:
    path = root / "x.csv"
    path.write_text("a,b\n1\n")
    before = path.stat()
    with pytest.raises(InvalidDataset):
        opener.check("x.csv")

    path.write_text("a\n11,\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    opener.check("x.csv")
    assert len(readings) == 2


def test_what_is_asked_of_a_remembered_file_is_judged_each_time(root: Path, opener: DatasetOpener) -> None:
    (root / "x.csv").write_text("a,b\n1,2\n")
    opener.check("x.csv")

    def judge(preview: Preview) -> None:
        assert preview.names == ("a", "b")
        raise InvalidDataset.of("columns", "not those")

    for _ in range(2):
        with pytest.raises(InvalidDataset, match="not those"):
            opener.check("x.csv", judge)


@pytest.mark.large
def test_memory_of_what_was_seen_is_bounded(root: Path, opener: DatasetOpener, readings: list[str]) -> None:
    names = [f"{number}.csv" for number in range(600)]
    for name in names:
        (root / name).write_text("a,b\n1,2\n")
        opener.check(name)

    for name in names:
        opener.check(name)

    assert 600 < len(readings) <= 1_200

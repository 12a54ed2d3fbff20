"""An open dataset: batches, samples, SQL, and what it leaves behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pynomaly_tasks.datasets import Dataset, DatasetOpener
from pynomaly_tasks.errors import InvalidDataset, JobCancelled

Open = Callable[..., Dataset]


@pytest.fixture(params=["csv", "parquet", "jsonl"])
def counted(request: pytest.FixtureRequest, root: Path, opener: DatasetOpener) -> Dataset:
    """20,000 rows that know their number, in each format."""
    numbers = range(20_000)
    path = root / f"x.{request.param}"
    if request.param == "csv":
        path.write_text("i,s\n" + "".join(f"{i},v{i}\n" for i in numbers))
    elif request.param == "jsonl":
        path.write_text("".join(f'{{"i":{i},"s":"v{i}"}}\n' for i in numbers))
    else:
        table = pa.table({"i": list(numbers), "s": [f"v{i}" for i in numbers]})
        pq.write_table(table, path, row_group_size=3_000)
    return opener.open(path.name)


def test_batches_come_in_file_order_and_again_from_the_start(counted: Dataset) -> None:
    first = [batch.num_rows for batch in counted.batches(n_rows=6_000)]
    values = [value for batch in counted.batches(["i"]) for value in batch.column("i").to_pylist()]

    assert sum(first) == counted.n_rows == 20_000
    assert max(first) <= 6_000
    assert values == list(range(20_000))


def test_two_readings_at_once_do_not_disturb_each_other(counted: Dataset) -> None:
    pairs = zip(counted.batches(["i"], 5_000), counted.batches(["s"], 5_000), strict=True)

    assert all(f"v{a.column(0)[0].as_py()}" == b.column(0)[0].as_py() for a, b in pairs)


def test_batches_hold_the_columns_asked_for_in_that_order(counted: Dataset) -> None:
    assert next(counted.batches(["s", "i"])).schema.names == ["s", "i"]


def test_sample_is_repeatable_in_file_order_and_without_repeats(counted: Dataset) -> None:
    first, again = counted.sample(500, seed=7), counted.sample(500, seed=7)
    other = counted.sample(500, seed=8)
    rows = first.column("i").to_pylist()

    assert first.equals(again)
    assert rows == sorted(set(rows))
    assert len(rows) == 500
    assert other.column("i").to_pylist() != rows
    assert counted.sample(500, seed=7, columns=["s"]).column("s").to_pylist() == [f"v{i}" for i in rows]


def test_sample_of_more_rows_than_there_are_is_the_whole_table(counted: Dataset) -> None:
    assert counted.sample(10**9, seed=0).column("i").to_pylist() == list(range(20_000))


def test_unknown_column_is_refused_naming_those_there_are(counted: Dataset) -> None:
    with pytest.raises(InvalidDataset, match="no column 'x'; it has 'i', 's'"):
        next(counted.batches(["x"]))


def test_connection_has_the_view_data_and_the_limits(counted: Dataset) -> None:
    with counted.connection() as connection:
        assert connection.sql("SELECT count(*), max(i) FROM data").fetchall() == [(20_000, 19_999)]
        settings = dict(
            connection.sql(
                "SELECT name, value FROM duckdb_settings() "
                "WHERE name IN ('memory_limit', 'threads', 'temp_directory', 'enable_external_access')"
            ).fetchall()
        )

    assert settings["memory_limit"] == "256.0 MiB"
    assert settings["threads"] == "1"
    assert "dataset-" in settings["temp_directory"]
    assert settings["enable_external_access"] == "false"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('{folder}/*')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "ATTACH '{folder}/other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "SET allowed_directories = ['/']",
    ],
)
def test_sql_reaches_no_other_file_and_cannot_unlock_itself(
    statement: str, open_text: Open, root: Path, tmp_path: Path
) -> None:
    (root / "secret.csv").write_text("a\n1\n")
    dataset = open_text("a\n1\n")

    with dataset.connection() as connection, pytest.raises(duckdb.Error):
        connection.execute(statement.format(secret=root / "secret.csv", folder=tmp_path))


def test_closing_or_forgetting_a_dataset_removes_its_files(open_text: Open, tmp_path: Path) -> None:
    closed, forgotten = open_text("a\n1\n", "1.csv"), open_text("a\n1\n", "2.csv")
    assert len(list((tmp_path / "temporary").iterdir())) == 2

    closed.close()
    closed.close()
    del forgotten
    gc.collect()

    assert not list((tmp_path / "temporary").iterdir())


def test_files_of_a_killed_process_go_at_the_next_opening_and_no_others(
    open_text: Open, root: Path, tmp_path: Path
) -> None:
    alive = open_text("a\n1\n", "1.csv")
    program = (
        "import sys; from pathlib import Path; from pynomaly_tasks.datasets import DatasetOpener; "
        f"d = DatasetOpener([Path({str(root)!r})], 9, 9, 64, Path({str(tmp_path / 'temporary')!r})).open('1.csv'); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list((tmp_path / "temporary").iterdir())) == 2

    latest = open_text("a\n2\n", "2.csv")

    assert len(list((tmp_path / "temporary").iterdir())) == 2
    assert alive.sample(1, 0).to_pylist() == [{"a": 1}]
    assert latest.sample(1, 0).to_pylist() == [{"a": 2}]


def test_checkpoint_that_raises_ends_a_long_query_at_once(open_text: Open) -> None:
    dataset = open_text("a\n" + "1\n" * 50_000)
    n_calls = 0

    def checkpoint() -> None:
        nonlocal n_calls
        n_calls += 1
        raise JobCancelled("stop")

    with pytest.raises(JobCancelled):
        dataset.query("SELECT sum(x.a * y.a) FROM data x, data y, data z", checkpoint)

    assert n_calls == 1
    assert dataset.query("SELECT count(*) FROM data") == [(50_000,)]


def test_descriptors_are_closed(open_text: Open) -> None:
    open_text("a\n1\n").close()
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(5):
        open_text("a\n1\n").close()
        with pytest.raises(InvalidDataset):
            open_text("a,b\n1\n", "bad.csv")

    assert len(list(Path("/proc/self/fd").iterdir())) == before

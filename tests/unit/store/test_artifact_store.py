"""Files of jobs in a directory: whole or absent, under their key, never outside the store."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from pynomaly_tasks.errors import InvalidRequest, InvalidSettings, NotFound, SourceUnavailable
from pynomaly_tasks.store.artifacts import ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scores.parquet"
    path.write_bytes(b"content")
    return path


def test_file_that_was_put_is_read_back_by_its_key(store: ArtifactStore, file: Path) -> None:
    key = store.put("job1", 2, "scores.parquet", file)

    assert key == "job1/2/scores.parquet"
    assert store.read_bytes(key) == b"content"
    assert store.size_bytes(key) == 7
    with store.open(key) as opened:
        assert opened.read(4) == b"cont"


def test_attempts_do_not_overwrite_each_other(store: ArtifactStore, file: Path) -> None:
    first = store.put("job1", 1, "a.json", file)
    file.write_bytes(b"second")
    second = store.put("job1", 2, "a.json", file)

    assert (store.read_bytes(first), store.read_bytes(second)) == (b"content", b"second")


def test_deleting_a_job_removes_all_its_attempts_and_no_others(store: ArtifactStore, file: Path) -> None:
    mine = [store.put("job1", attempt, "a", file) for attempt in (1, 2)]
    other = store.put("job10", 1, "a", file)

    store.delete_job("job1")
    store.delete_job("job1")

    for key in mine:
        with pytest.raises(NotFound):
            store.read_bytes(key)
    assert store.read_bytes(other) == b"content"


@pytest.mark.parametrize("key", ["job1/1/nothing", "nobody/1/a", "job1", "job1/1"])
def test_key_without_a_file_is_not_found(key: str, store: ArtifactStore, file: Path) -> None:
    store.put("job1", 1, "a", file)

    with pytest.raises(NotFound):
        store.open(key)


@pytest.mark.parametrize(
    "key",
    [
        "../secret",
        "job1/../../secret",
        "/etc/passwd",
        "",
        "a//b",
        "job1/1/.part-x",
        "a/b/c/d",
        "a/b\0",
        "a/b\n",
    ],
)
def test_key_that_could_lead_out_of_the_store_is_refused(
    key: str, store: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s")

    for refused in (store.open, store.size_bytes, store.delete_job):
        with pytest.raises(InvalidRequest):
            refused(key)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 300])
def test_name_that_is_no_plain_file_name_is_refused(name: str, store: ArtifactStore, file: Path) -> None:
    with pytest.raises(InvalidRequest):
        store.put("job1", 1, name, file)


def test_write_that_fails_halfway_leaves_nothing_and_keeps_the_old_file(
    store: ArtifactStore, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store.put("job1", 1, "a", file)
    file.write_bytes(b"new")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(SourceUnavailable, match=r"no space left.*artifacts_url"):
        store.put("job1", 1, "a", file)

    assert store.read_bytes(key) == b"content"
    assert [path.name for path in (tmp_path / "artifacts" / "job1" / "1").iterdir()] == ["a"]


def test_directory_that_cannot_be_written_is_unavailable(tmp_path: Path, file: Path) -> None:
    (tmp_path / "blocked").write_text("a file where the directory should be")

    with pytest.raises(SourceUnavailable):
        ArtifactStore(str(tmp_path / "blocked")).put("job1", 1, "a", file)


def test_store_appears_again_after_its_directory_was_removed(
    store: ArtifactStore, file: Path, tmp_path: Path
) -> None:
    store.put("job1", 1, "a", file)
    shutil.rmtree(tmp_path / "artifacts")

    assert store.read_bytes(store.put("job1", 2, "a", file)) == b"content"


def test_address_that_is_neither_directory_nor_s3_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="s3://bucket/prefix"):
        ArtifactStore("ftp://host/x")

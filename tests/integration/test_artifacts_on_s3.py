"""The artifact store on an S3 server: moto's, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynomaly_tasks.errors import NotFound, SourceUnavailable
from pynomaly_tasks.store.artifacts import ArtifactStore

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
# One try: the tests of an absent server must not wait for the client's patience.
CLIENT = {"config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 2, "read_timeout": 10}}


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, Any]]:
    """How to reach the server; it has one bucket, ``results``. It ends when its input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            options = {"key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{port}", **CLIENT}
            import s3fs

            s3fs.S3FileSystem(**options).mkdir("results")
            yield options
        finally:
            process.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scores.parquet"
    path.write_bytes(b"content" * 200_000)
    return path


def test_file_is_kept_read_measured_and_deleted_on_s3(s3_options: dict[str, Any], file: Path) -> None:
    store = ArtifactStore("s3://results/pre/fix", s3_options)

    key = store.put("job1", 1, "scores.parquet", file)
    other = store.put("job10", 1, "scores.parquet", file)

    assert key == "job1/1/scores.parquet"
    assert store.size_bytes(key) == 1_400_000
    assert store.read_bytes(key) == file.read_bytes()
    with store.open(key) as opened:
        assert opened.read(7) == b"content"
    store.delete_job("job1")
    store.delete_job("job1")
    with pytest.raises(NotFound):
        store.read_bytes(key)
    assert store.size_bytes(other) == 1_400_000


def test_file_written_by_another_process_is_seen_at_once(s3_options: dict[str, Any], file: Path) -> None:
    reader, writer = (ArtifactStore("s3://results/shared", s3_options) for _ in range(2))
    with pytest.raises(NotFound):
        reader.size_bytes("job2/1/a")

    writer.put("job2", 1, "a", file)

    assert reader.size_bytes("job2/1/a") == 1_400_000


def test_missing_bucket_and_absent_server_are_unavailable(s3_options: dict[str, Any], file: Path) -> None:
    with pytest.raises(SourceUnavailable, match="no bucket at s3://nothing/x"):
        ArtifactStore("s3://nothing/x", s3_options).put("job1", 1, "a", file)
    gone = {**s3_options, "endpoint_url": "http://127.0.0.1:9"}
    with pytest.raises(SourceUnavailable):
        ArtifactStore("s3://results/x", gone).read_bytes("job1/1/a")

"""What every contestant's task does: count itself and say when it started, in a file that its process maps."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from pathlib import Path

REDIS_URL = os.environ.get("BENCH_REDIS", "")
#: What each task is called with: 1 KB of JSON.
ARGUMENT = {"source": "data/readings.csv", "note": "x" * 960}
_RECORD = struct.Struct("<qd")
_lock = threading.Lock()
_pid = 0
_count = 0
_page: mmap.mmap


def ran() -> None:
    """The task's whole work; about a microsecond."""
    global _pid, _count, _page
    started_at = time.time()
    with _lock:
        if os.getpid() != _pid:
            _pid, _count = os.getpid(), 0
            path = Path(os.environ["BENCH_PROBES"]) / str(_pid)
            path.write_bytes(bytes(_RECORD.size))
            with path.open("r+b") as file:
                _page = mmap.mmap(file.fileno(), _RECORD.size)
        _count += 1
        _RECORD.pack_into(_page, 0, _count, started_at)


def read(directory: Path) -> tuple[int, float]:
    """How many tasks ran so far, and when the last of them started."""
    records = [_RECORD.unpack(path.read_bytes()) for path in directory.iterdir() if path.stat().st_size]
    return sum(record[0] for record in records), max((record[1] for record in records), default=0.0)

"""The memory backend: no server, and no client library to stand beside."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pynomaly_tasks.messaging import Backend, build_backend


class MemoryBench:
    """See `Broker`."""

    name = "memory"
    distributions: Sequence[str] = ()
    n_one_by_one = 2_000
    n_at_once = 5_000
    max_rounds = 100
    max_probes = 1_000

    def start(self, stack: ExitStack, directory: Path) -> None:
        """There is nothing to start."""

    def backend(self) -> Backend:
        return build_backend("memory")

    def bare(self) -> None:
        return None

    def faststream(self) -> None:
        return None

"""What is kept of tasks in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pynomaly_tasks.messaging.task_records import NewTask

PENDING = "pending"
RUNNING = "running"


@dataclass(slots=True)
class MemoryTask:
    """One record."""

    new: NewTask
    due: float  #: by the broker's clock, as `slot` and `created`
    slot: float
    created: float
    runs_left: int | None
    state: str = PENDING
    parents: int = 0
    attempt: int = 0
    n_failed: int = 0
    n_lost: int = 0
    n_runs: int = 0
    started: float | None = None
    ended: float | None = None
    worker: str = ""
    progress: bytes = b""
    outcome: bytes = b""
    worker_died: bool = False
    failed_parent: str = ""
    failed_parent_state: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self.state in (PENDING, RUNNING)


class MemoryTasks:
    """What the records of one broker are."""

    def __init__(self, now: float) -> None:
        """``now``, by the broker's clock, is what its instants are told from."""
        self._began, self._began_at = now, datetime.now(UTC)
        self.by_id: dict[str, MemoryTask] = {}  #: in the order they were added
        self.by_key: dict[str, str] = {}
        self.children: dict[str, list[str]] = {}
        self.ended: list[tuple[float, str]] = []  #: heap, by when they are forgotten

    def instant(self, when: float) -> datetime:
        """A time of the broker's clock for people."""
        return self._began_at + timedelta(seconds=when - self._began)

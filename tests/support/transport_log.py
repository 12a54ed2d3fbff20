"""What tasks did and which workers were killed, in the order in which one Redis wrote it down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import redis

#: A stream; the ids of its entries are the server's time in ms.
LOG = "log"


@dataclass(slots=True)
class Run:
    """One run of a task, and what became of its worker. Times in seconds of the server's clock."""

    number: int
    group: int
    pid: int  #: of the process that ran it
    started_at: float
    clock_is_off_by_s: float  #: the worker's
    ended_at: float | None = None
    #: Just before its worker was killed, and when it was dead for certain.
    killing_at: float | None = None
    killed_at: float | None = None

    @property
    def was_interrupted(self) -> bool:
        """It was running when its worker was killed."""
        return self.ended_at is None and self.killed_at is not None

    @property
    def ended_before_kill_s(self) -> float:
        """How long before the kill it had ended; endless where nobody killed the worker."""
        if self.killing_at is None or self.ended_at is None:
            return float("inf")
        return max(self.killing_at - self.ended_at, 0.0)


def ran_at_once(runs: Sequence[Run]) -> bool:
    """Whether one of them began while the one before could still go on."""
    return any(
        second.started_at < min(first.ended_at or float("inf"), first.killed_at or float("inf"))
        for first, second in pairwise(runs)
    )


@contextmanager
def write_kill(effects: redis.Redis, group: int) -> Iterator[None]:
    """Write down when the body begins to kill this process group, and when that is done."""
    effects.xadd(LOG, {"what": "killing", "group": group})
    yield
    effects.xadd(LOG, {"what": "killed", "group": group})


#: A kill that was written down so long before a run's start was that of another worker, with the same id.
SAME_WORKER_S = 1.0


def read_runs(effects: redis.Redis) -> Mapping[int, list[Run]]:
    """All runs of each number, in the order of their starts."""
    runs: dict[str, Run] = {}
    kills: dict[int, list[dict[str, float]]] = defaultdict(list)
    entries: Iterable[tuple[bytes, dict[bytes, bytes]]] = effects.xrange(LOG)  # type: ignore[assignment]
    for entry_id, raw in entries:
        entry = {name.decode(): value.decode() for name, value in raw.items()}
        at = int(entry_id.split(b"-")[0]) / 1000
        group = int(entry["group"])
        if entry["what"] == "start":
            runs[entry["run"]] = Run(
                int(entry["number"]), group, int(entry["pid"]), at, float(entry["clock"]) - at
            )
        elif entry["what"] == "end":
            runs[entry["run"]].ended_at = at
        elif entry["what"] == "killing":
            kills[group].append({"killing_at": at})
        else:
            kills[group][-1]["killed_at"] = at
    for run in runs.values():
        # Whatever the order in the log: what a worker had sent when it was killed, Redis may read after
        # it was told of the kill.
        kill = next((k for k in kills[run.group] if run.started_at - SAME_WORKER_S < k["killed_at"]), None)
        if kill is not None:
            run.killing_at, run.killed_at = kill["killing_at"], kill["killed_at"]
    by_number: dict[int, list[Run]] = defaultdict(list)
    for run in runs.values():
        by_number[run.number].append(run)
    return by_number

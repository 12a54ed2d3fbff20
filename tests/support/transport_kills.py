"""Tasks published all the while, and worker groups that live in parallel and are killed in turn."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

from support.processes import Program
from support.transport import OUR_CONSUMER, OURS, Fleet
from support.transport_log import Run, ran_at_once, read_runs, write_kill
from support.waiting import wait_until

#: Workers that live at once.
N_WORKERS = 4
#: The queue is kept so full that every worker always has something to take.
BACKLOG = 60
POOLS = ("prefork", "threads", "solo")


@dataclass(slots=True, kw_only=True)
class Victim:
    """A worker, and when it is to be killed."""

    program: Program
    kill_at: float | None = None  #: monotonic; known once it is ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run under kills did."""

    n_tasks: int
    n_kills: int
    took_s: float
    seed: int
    runs: Mapping[int, list[Run]]

    @property
    def lost(self) -> set[int]:
        """Published, and never ended."""
        return {n for n in range(self.n_tasks) if not any(run.ended_at for run in self.runs.get(n, []))}

    @property
    def repeated(self) -> list[Run]:
        """Every run that another one followed."""
        return [run for runs in self.runs.values() for run in runs[:-1]]

    @property
    def interrupted(self) -> list[Run]:
        """Repeated, and running when its worker was killed."""
        return [run for run in self.repeated if run.was_interrupted]

    @property
    def unacknowledged(self) -> list[Run]:
        """Repeated although it had ended: its worker was killed before it could acknowledge."""
        return [run for run in self.repeated if not run.was_interrupted]

    @property
    def doubled(self) -> set[int]:
        """Numbers that ended more than once."""
        return {n for n, runs in self.runs.items() if sum(run.ended_at is not None for run in runs) > 1}

    @property
    def at_once(self) -> set[int]:
        """Numbers of which one run began while another one still could go on."""
        return {number for number, runs in self.runs.items() if ran_at_once(runs)}

    def __str__(self) -> str:
        late = max((run.ended_before_kill_s for run in self.unacknowledged), default=0.0)
        return (
            f"{self.n_tasks} tasks, {self.n_kills} kills, {self.took_s:.0f} s, seed {self.seed}: "
            f"{len(self.lost)} lost, {len(self.doubled)} ended twice, {len(self.repeated)} runs repeated: "
            f"{len(self.interrupted)} were running when their worker was killed, "
            f"{len(self.unacknowledged)} had ended at most {late * 1000:.0f} ms before; "
            f"{len(self.at_once)} ran twice at once"
        )


class KillRun:
    """Publishes tasks, and kills each worker 1 to 3 s after it was ready, until enough was done."""

    def __init__(self, fleet: Fleet, transport: str, *, n_tasks: int, n_kills: int, seed: int) -> None:
        self.fleet = fleet
        self.transport = transport
        self.n_tasks = n_tasks
        self.n_kills = n_kills
        self.seed = seed
        self.n_published = 0
        self.n_dead = 0
        self._rng = random.Random(seed)
        self._pools = cycle(POOLS)

    def run(self, timeout_s: float = 1_500.0) -> Outcome:
        """At least so many tasks and exactly so many kills; then all that is left is done."""
        began_at = time.monotonic()
        self._victims = [self._start() for _ in range(N_WORKERS)]
        with self.fleet.publisher(self.transport) as self._publish:
            wait_until(self._step, timeout_s, "all tasks to be published and all workers to be killed")
        wait_until(
            self.fleet.is_empty, 120, "an empty broker",
            every_s=0.2,
        )  # fmt: skip
        return Outcome(
            n_tasks=self.n_published,
            n_kills=self.n_dead,
            took_s=time.monotonic() - began_at,
            seed=self.seed,
            runs=read_runs(self.fleet.effects),
        )

    def _step(self) -> bool:
        for _ in range(BACKLOG - self.fleet.n_waiting()):
            self._publish(self.n_published, lasts_s=self._rng.uniform(0.0, 0.05))
            self.n_published += 1
        for place, victim in enumerate(self._victims):
            # One that ended by itself would leave runs of which nobody could say why they were repeated.
            assert victim.program.is_running(), victim.program.log_tail(60)
            if victim.kill_at is None:
                if " ready." in victim.program.output():
                    victim.kill_at = time.monotonic() + self._rng.uniform(1.0, 3.0)
            elif time.monotonic() >= victim.kill_at and self.n_dead < self.n_kills:
                with write_kill(self.fleet.effects, victim.program.pid):
                    victim.program.kill()
                self.n_dead += 1
                self._victims[place] = self._start()
        return self.n_dead >= self.n_kills and self.n_published >= self.n_tasks

    def _start(self) -> Victim:
        env = OUR_CONSUMER if self.transport == OURS else None
        worker = self.fleet.worker(self.transport, pool=next(self._pools), env=env, is_awaited=False)
        return Victim(program=worker)

"""Children of a prefork pool that end, each in its own way, in the moments in which a task comes."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
from celery import Celery

from support.transport import OURS, Fleet
from support.transport_log import Run, read_runs
from support.waiting import wait_until

#: A task that a child is busy with, beside the one that comes.
LONG = 1_000_000
N_CHILDREN = 2
#: From a child's death on: Celery looks for the dead every 5 s where it missed the moment.
LONGEST_WAIT_S = 15.0
CONF = {"worker_lost_wait": 0.2, "worker_pool_restarts": True}


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the tasks of all rounds."""

    how: str
    n_rounds: int = 0
    started: Counter[int] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)
    #: Numbers that ran again although the child that ran them was not killed.
    repeated_for_nothing: set[int] = field(default_factory=set)
    waits_s: list[float] = field(default_factory=list)  #: of each task, from the call to its end

    @property
    def lost(self) -> set[int]:
        """Published, and never ended."""
        return {number for number in range(self.n_rounds) if not self.ended[number]}

    @property
    def n_repeated(self) -> int:
        """Tasks that started more than once."""
        return sum(self.started[number] > 1 for number in range(self.n_rounds))

    def __str__(self) -> str:
        waits_s = sorted(self.waits_s)
        return (
            f"{self.how}: {self.n_rounds} rounds, {len(self.lost)} lost, {self.n_repeated} started again, "
            f"{len(self.repeated_for_nothing)} of them for nothing; a task took "
            f"{1000 * waits_s[len(waits_s) // 2]:.0f} ms in the middle, {waits_s[-1]:.1f} s at most"
        )


class Deaths:
    """A worker, tasks that come to it one by one, and children that end just then."""

    def __init__(self, fleet: Fleet, consumer: str, *, seed: int) -> None:
        self.fleet = fleet
        self._rng = random.Random(seed)
        self._consumer = consumer
        self._killed: set[int] = set()  #: pids
        self._n_long = 0

    def run(self, how: str, n_rounds: int) -> Outcome:
        """Let children end ``how`` says; each round waits until its task has ended."""
        self._how = how
        harm: Callable[[], Callable[[], None]] = getattr(self, f"_by_{how}")
        arguments = {"recycling": ["--max-tasks-per-child", "1"], "autoscale": ["--autoscale", "2,1"]}.get(
            how, []
        )
        self.worker = self.fleet.worker(
            OURS, "-O", "fair", *arguments, slots=N_CHILDREN,
            env={"TRANSPORT_CONSUMER": self._consumer, "TRANSPORT_CONF": json.dumps(CONF)},
        )  # fmt: skip
        outcome = Outcome(how=how, n_rounds=n_rounds)
        with self._speaking():
            wait_until(lambda: self._control.ping(timeout=0.5), 20, "the worker to answer")
            for number in range(n_rounds):
                outcome.waits_s.append(self._round(number, harm()))
            wait_until(self.fleet.is_empty, 30, "an empty broker")
        outcome.started, outcome.ended = self.fleet.started(), self.fleet.ended()
        living = {child.pid for child in self._children()}
        outcome.repeated_for_nothing = {
            number
            for number, runs in read_runs(self.fleet.effects).items()
            if number < LONG and not all(self._was_ended(run, living) for run in runs[:-1])
        }
        return outcome

    def _was_ended(self, run: Run, living: set[int]) -> bool:
        """Somebody ended the child of this run before it could tell of the task's end."""
        # Celery makes its pool smaller by a child that has begun a task and not told so yet.
        by_celery = self._how in ("shrinking", "autoscale") and run.pid not in living
        return run.pid in self._killed or by_celery

    def _round(self, number: int, harm: Callable[[], None]) -> float:
        offset_s = self._rng.uniform(-0.004, 0.004)
        with ThreadPoolExecutor(1) as thread:

            def do_harm() -> None:
                threading.Event().wait(max(offset_s, 0.0))
                harm()

            done = thread.submit(do_harm)
            threading.Event().wait(max(-offset_s, 0.0))
            began_at = time.monotonic()
            self._publish(number)
            done.result()
        wait_until(
            lambda: self.fleet.effects.hexists("ends", str(number)), LONGEST_WAIT_S, f"task {number} to end",
            every_s=0.002,
        )  # fmt: skip
        return time.monotonic() - began_at

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        with (
            Celery(broker=self.fleet.broker_url, set_as_current=False) as app,
            self.fleet.publisher() as publish,
        ):
            app.conf.update(broker_transport=OURS, broker_transport_options=self.fleet.options)
            self._control = app.control
            self._publish = publish
            yield

    # ---- how children end; each prepares, and returns what is done in the moment

    def _children(self) -> list[psutil.Process]:
        alive = []
        for child in psutil.Process(self.worker.pid).children():
            with suppress(psutil.NoSuchProcess):  # it ended just now
                if child.status() != psutil.STATUS_ZOMBIE:
                    alive.append(child)
        return alive

    def _by_kill(self) -> Callable[[], None]:
        children = wait_until(self._children, 10, "children")
        victim = self._rng.choice(children)
        self._killed.add(victim.pid)
        return lambda: _kill(victim)

    def _by_killing_all(self) -> Callable[[], None]:
        children = wait_until(self._children, 10, "children")
        self._killed.update(child.pid for child in children)

        def harm() -> None:
            for child in children:
                _kill(child)

        return harm

    def _long(self, **options: Any) -> str:
        self._n_long += 1
        number = LONG + self._n_long
        task_id = f"long-{self._n_long}"
        self._publish(number, task_id=task_id, **options)
        self.fleet.wait_for_start(number)
        return task_id

    def _by_revoke(self) -> Callable[[], None]:
        task_id = self._long(lasts_s=60.0)
        return lambda: self._control.revoke(task_id, terminate=True, signal="SIGKILL")

    def _by_revoke_at_its_end(self) -> Callable[[], None]:
        """The child that is killed has just ended its task: it may be given the one that comes."""
        task_id = self._long(lasts_s=self._rng.uniform(0.0, 0.006))
        self._killed.update(child.pid for child in self._children())
        return lambda: self._control.revoke(task_id, terminate=True, signal="SIGKILL")

    def _by_time_limit(self) -> Callable[[], None]:
        limit_s = 0.5  # time enough for a new child on a busy machine to begin the task at all
        self._long(lasts_s=60.0, time_limit=limit_s)
        threading.Event().wait(limit_s - 0.004)
        return lambda: None

    def _by_recycling(self) -> Callable[[], None]:
        return lambda: None

    def _by_pool_restart(self) -> Callable[[], None]:
        return lambda: self._control.pool_restart()

    def _by_shrinking(self) -> Callable[[], None]:
        self._control.pool_grow(1)
        wait_until(lambda: len(self._children()) > N_CHILDREN, 10, "another child")
        return lambda: self._control.pool_shrink(1)

    def _by_autoscale(self) -> Callable[[], None]:
        low = self._rng.choice([1, 2])
        return lambda: self._control.autoscale(2, low)


HOWS = tuple(name.removeprefix("_by_") for name in vars(Deaths) if name.startswith("_by_"))


def _kill(child: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):  # it ended by itself
        child.kill()

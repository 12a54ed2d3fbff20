"""A job engine under test: a store, a Redis, worker processes that may be killed, and the effects of jobs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.core.job import DeadLetter, Job, JobState
from pynomaly_tasks.queueing.app import build_app
from pynomaly_tasks.settings import Settings
from support.faulty_kinds import ACT, Effects
from support.processes import ROOT, Program, Programs
from support.waiting import wait_until

#: Short, so that what takes a lease or a pause in production takes a moment here.
LEASE_S = 2.0
QUICK = {
    "PYNOMALY_JOBS__LEASE_S": str(LEASE_S),
    "PYNOMALY_JOBS__HEARTBEATS_PER_LEASE": "4",
    "PYNOMALY_JOBS__RESCUE_EVERY_S": "0.5",
    "PYNOMALY_JOBS__LOST_MESSAGE_AFTER_S": "2",
    "PYNOMALY_JOBS__PROMOTE_EVERY_S": "0.1",
    "PYNOMALY_REDIS__SOCKET_TIMEOUT_S": "5",
    "PYNOMALY_LOG__FORMAT": "json",
}


class Engine:
    """The platform with the kind `act`: this process submits, worker processes run."""

    def __init__(
        self,
        directory: Path,
        programs: Programs,
        redis_url: str,
        store_url: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.programs = programs
        self.env = {
            **QUICK,
            "PYNOMALY_REDIS__URL": redis_url,
            "PYNOMALY_DATA__DIRECTORY": str(directory / "platform"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            **({"PYNOMALY_STORE__URL": store_url} if store_url else {}),
            **(env or {}),
        }
        self.settings = settings_from(self.env)
        self.platform = Platform(self.settings, kinds={ACT.name: ACT})
        self.celery: Celery = build_app(lambda: self.settings)
        self.effects = Effects(directory / "effects.sqlite3")
        self.platform.store  # noqa: B018  made, and migrated, before the workers look at it

    def worker(
        self,
        *arguments: str,
        slots: int = 1,
        pool: str = "prefork",
        env: Mapping[str, str] | None = None,
        app: str = "support.faulty_worker",
        wait: bool = True,
    ) -> Program:
        """Start a worker process group; by default wait until it answers."""
        node = f"w{len(self.programs.started)}@localhost"
        program = self.programs.start(
            sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO", "-n", node,
            "-P", pool, "-c", str(slots), "--without-mingle", *arguments, name="worker", env={**self.env, **(env or {})},
        )  # fmt: skip
        if wait:
            wait_until(lambda: self._answers(program, node), 40.0, f"{node} to answer a ping")
        return program

    def _answers(self, program: Program, node: str) -> bool:
        assert program.is_running(), f"the worker ended with {program.returncode}:\n{program.log_tail(60)}"
        try:
            return bool(self.celery.control.inspect([node], timeout=0.5).ping())
        except redis.ConnectionError:
            return False  # a pooled connection of before Redis was restarted

    def request(self, **what: Any) -> dict[str, Any]:
        """A request of the kind `act`."""
        return {"effects": str(self.effects.path), **what}

    def submit(self, options: Mapping[str, Any] | None = None, /, **what: Any) -> Job:
        """Submit one `act`; ``options`` of the job, ``what`` it does."""
        return self.platform.submit(ACT.name, self.request(**what), **(options or {}))

    def job(self, job: Job) -> Job:
        """As it stands now."""
        return self.platform.store.get_job(job.id)

    def wait_for(self, job: Job, *states: JobState, timeout_s: float = 30.0) -> Job:
        """The job, once it is in one of the states; without any, once it has ended."""

        def seen() -> Job | None:
            now = self.job(job)
            return now if (now.state in states if states else now.state.is_final) else None

        try:
            return wait_until(seen, timeout_s, f"job {job.id} to be {states or 'ended'}")
        except AssertionError as error:
            error.add_note(repr(self.job(job)))
            raise

    def wait_for_all(self, jobs: Sequence[Job], timeout_s: float) -> list[Job]:
        """All of them, ended."""

        def open_jobs() -> int:
            return sum(
                n for (_, state), n in self.platform.store.count_by_state().items() if not state.is_final
            )

        wait_until(lambda: open_jobs() == 0, timeout_s, f"{len(jobs)} jobs to end", every_s=0.1)
        return [self.job(job) for job in jobs]

    def wait_for_letters(self, count: int, timeout_s: float = 40.0) -> list[DeadLetter]:
        """The dead letters, oldest first, once there are as many; fails on more."""

        def found() -> list[DeadLetter]:
            letters = self.platform.store.list_dead_letters(limit=count + 1)
            return letters if len(letters) >= count else []

        letters = wait_until(found, timeout_s, f"{count} dead letters")
        assert len(letters) == count, letters
        return letters[::-1]

    def wait_for_start(self, job: Job, attempt: int = 1, timeout_s: float = 30.0) -> float:
        """When the attempt began to work, in seconds since 1970."""

        def started() -> float | None:
            return next((e.at for e in self.effects.list("start", job.id) if e.attempt == attempt), None)

        return wait_until(started, timeout_s, f"attempt {attempt} of job {job.id} to start")

    def gate(self, name: str = "gate") -> Path:
        """A file that does not exist yet; `Path.touch` opens it."""
        return self.directory / name

    def outcomes(self, job: Job) -> list[str]:
        """How each attempt ended."""
        return [attempt.outcome.value for attempt in self.platform.store.list_attempts(job.id)]

    def close(self) -> None:
        """Close the connections; the programs end by their own fixture."""
        self.platform.close()
        self.celery.close()


EngineStarter = Callable[..., Engine]


def settings_from(env: Mapping[str, str]) -> Settings:
    """The settings that a process with this environment has."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in env.items():
        if name.startswith("PYNOMALY_"):
            section, _, field = name.removeprefix("PYNOMALY_").lower().partition("__")
            # Lists and mappings are JSON, as in the environment.
            sections.setdefault(section, {})[field] = (
                json.loads(value) if value.startswith(("[", "{")) else value
            )
    return Settings(**sections)  # type: ignore[arg-type]  # pydantic builds the sections


def seconds_since(at: float) -> float:
    """How long ago an instant of the wall clock was."""
    return time.time() - at


def check_ended_once(engine: Engine, jobs: Sequence[Job], what: str) -> None:
    """Every job succeeded with one result of one attempt, and its effects agree; prints the counts."""
    ended = [engine.job(job) for job in jobs]
    starts: dict[tuple[str, int], int] = {}
    for effect in engine.effects.list("start"):
        starts[effect.job_id, effect.attempt] = starts.get((effect.job_id, effect.attempt), 0) + 1
    worked_to_the_end = {(effect.job_id, effect.attempt) for effect in engine.effects.list("end")}
    lost = [job.id for job in ended if not job.state.is_final]
    failed = [job.id for job in ended if job.state.is_final and job.state is not JobState.SUCCEEDED]
    doubled = [key for key, n in starts.items() if n > 1]
    without_effect = []
    n_attempts = 0
    for job in ended:
        attempts = engine.platform.store.list_attempts(job.id)
        n_attempts += len(attempts)
        won = [attempt.number for attempt in attempts if attempt.outcome.value == "succeeded"]
        if len(won) > 1 or (won and engine.platform.store.get_result(job.id).attempt != won[0]):
            doubled.append((job.id, len(won)))
        if won and (job.id, won[0]) not in worked_to_the_end:
            without_effect.append(job.id)
    print(
        f"\n{what}: {len(jobs)} jobs, {n_attempts} attempts, lost {len(lost)}, not succeeded {len(failed)}, "
        f"doubled {len(doubled)}, done without effect {len(without_effect)}"
    )
    assert (lost, failed, doubled, without_effect) == ([], [], [], [])

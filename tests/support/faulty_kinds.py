"""A kind of job that misbehaves on request, and the store of its side effects."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pynomaly_tasks.errors import PynomalyError
from pynomaly_tasks.jobs.context import JobContext, Kind, Outcome


class ActRequest(BaseModel):
    """What the job does, in this order; every start, effect and end is written to ``effects``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    POSITIONAL: ClassVar[tuple[str, ...]] = ("effects", "label")

    effects: str  #: path of the SQLite file
    label: str = ""
    kill_attempts: int = Field(0, description="The first n attempts SIGKILL their own process")
    exit_attempts: int = Field(0, description="The first n attempts call sys.exit()")
    fail_attempts: int = Field(0, description="The first n attempts raise an error")
    retryable: bool = True
    gate: str | None = Field(None, description="Wait until this file exists")
    lasts_s: float = 0.0
    checkpoints: bool = True  #: while it waits or lasts
    holds_gil: bool = False  #: while it lasts
    ignores_stop: bool = False  #: catches what is raised to stop it, and works on
    bad_result: bool = False  #: returns what no JSON can hold


class Flaky(PynomalyError):
    """Worth another try."""

    retryable = True


class Hopeless(PynomalyError):
    """Not worth another try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One line of the side effect's own store."""

    seq: int
    job_id: str
    attempt: int
    event: str  #: start, effect, end
    label: str
    pid: int
    at: float


class Effects:
    """A SQLite file that jobs write to by themselves, apart from the platform's store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._connected() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS effects (seq INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT,"
                " attempt INTEGER, event TEXT, label TEXT, pid INTEGER, at REAL)"
            )

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            yield connection

    def add(self, job_id: str, attempt: int, event: str, label: str) -> None:
        """Write one line, at once."""
        with self._connected() as connection:
            connection.execute(
                "INSERT INTO effects (job_id, attempt, event, label, pid, at) VALUES (?, ?, ?, ?, ?, ?)",
                (job_id, attempt, event, label, os.getpid(), time.time()),
            )

    def list(self, event: str | None = None, job_id: str | None = None) -> list[Effect]:
        """The lines in the order of their writing."""
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT seq, job_id, attempt, event, label, pid, at FROM effects"
                " WHERE event = coalesce(?, event) AND job_id = coalesce(?, job_id) ORDER BY seq",
                (event, job_id),
            ).fetchall()
        names = ("seq", "job_id", "attempt", "event", "label", "pid", "at")
        return [Effect(**dict(zip(names, row, strict=True))) for row in rows]


def act(context: JobContext, request: ActRequest, services: Any) -> Outcome:
    """Do what the request says."""
    effects = Effects(Path(request.effects))
    effects.add(context.job_id, context.attempt, "start", request.label)
    if context.attempt <= request.kill_attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    if context.attempt <= request.exit_attempts:
        sys.exit(3)
    if context.attempt <= request.fail_attempts:
        kind = Flaky if request.retryable else Hopeless
        raise kind(f"attempt {context.attempt} fails, as it was told")
    end = time.monotonic() + request.lasts_s
    if request.holds_gil:
        _hold_gil(end)
    while time.monotonic() < end or (request.gate and not Path(request.gate).exists()):
        try:
            if request.checkpoints:
                context.progress(0, 1, "waiting")
            time.sleep(0.02)
        except Exception:
            if not request.ignores_stop:
                raise
    effects.add(context.job_id, context.attempt, "end", request.label)
    if request.bad_result:
        return Outcome(detail={"of": {1, 2}})
    return Outcome(summary={"attempt": context.attempt, "label": request.label})


def _hold_gil(end: float) -> None:
    # One match of this pattern backtracks for a fraction of a second, in C, with the GIL held.
    while time.monotonic() < end:
        re.fullmatch(r"(a+)+b", "a" * 24)


ACT = Kind(name="act", queue="default", request_model=ActRequest, perform=act)

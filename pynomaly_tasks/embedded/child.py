"""One child process in a process group of its own, which never outlives this process."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pynomaly_tasks.embedded import guard

_POLL_S = 0.01

# The shell tells the guard its own pid before it becomes the program, with standard input as the
# guard's pipe: at no instant is there a child that the guard does not know of. A shell whose guard
# is gone cannot write, and so never starts the program.
_REGISTER_AND_EXEC = 'echo "+ $$" >&0 && exec "$@" </dev/null'


class _Guard:
    """This process' end of the guard's pipe."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        # In its own session, so that neither Ctrl-C nor a kill of our group reaches it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(self.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        assert self._process.stdin is not None
        self.pipe = self._process.stdin.fileno()

    def is_alive(self) -> bool:
        return self.pid == os.getpid() and self._process.poll() is None

    def forget(self, group: int) -> None:
        with suppress(BrokenPipeError):
            os.write(self.pipe, b"- %d\n" % group)

    def close(self) -> None:
        """End every group that is left, and wait for that."""
        if not self.is_alive():
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            # Said in words as well: a process forked from this one may hold the pipe open.
            os.write(self.pipe, b"end\n")
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(guard.GRACE_S + guard.POLL_S + 1.0)
        for child in list(_children):
            child.is_running()  # collects the dead


_lock = threading.Lock()
_guards: list[_Guard] = []
_children: weakref.WeakSet[Child] = weakref.WeakSet()


def _current_guard() -> _Guard:
    """The guard of this process; another after a fork."""
    with _lock:
        if not _guards or not _guards[-1].is_alive():
            _guards.append(_Guard())
            atexit.register(_guards[-1].close)
        return _guards[-1]


def _is_alive_in(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
        return False


class Child:
    """A running program with its whole process group.

    Output goes to ``log``, appended. The program and everything it starts (unless it leaves the
    group) is ended when this process ends, by whatever signal.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
    ) -> None:
        """Start ``command``; ``env`` replaces the environment; ``user`` needs root.

        Raises FileNotFoundError when there is no such program or directory.
        """
        self.command = [str(part) for part in command]
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._guard = _current_guard()
        self._log_start = log.stat().st_size if log.exists() else 0
        self.started_at = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _REGISTER_AND_EXEC, "sh", *self.command],
                stdin=self._guard.pipe,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=None if env is None else dict(env),
                cwd=cwd,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        _children.add(self)
        self.pid = self._process.pid  #: of the program, and the id of its process group

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._process.poll()

    def is_running(self) -> bool:
        """Whether the program itself runs; its own children may live on after it."""
        return self._process.poll() is None

    def signal_group(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens when all of it is gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def signal_leader(self, number: int) -> None:
        """Send a signal to the program alone, not to the processes that it started."""
        if self.is_running():
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Whether the program has ended within that time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, timeout_s: float = 10.0, number: int = signal.SIGTERM) -> int:
        """Ask the program to end, wait, then kill what is left of its group. Returns its exit code."""
        self.signal_leader(signal.SIGCONT)
        self.signal_leader(number)
        self.wait(timeout_s)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL the whole group, and wait until it is gone. Returns the program's exit code."""
        self.signal_group(signal.SIGKILL)
        code = self._process.wait()
        end = time.monotonic() + 10.0
        while self._group_exists() and time.monotonic() < end:
            time.sleep(_POLL_S)
        self._guard.forget(self.pid)
        return code

    def _group_exists(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        # A container's first process may never collect the dead that it inherits; those count as gone.
        return any(_is_alive_in(process, self.pid) for process in psutil.process_iter())

    def output(self) -> str:
        """Everything this run of the program wrote so far."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def log_tail(self, n_lines: int = 20) -> str:
        """The last lines that it wrote."""
        return "\n".join(self.output().splitlines()[-n_lines:])

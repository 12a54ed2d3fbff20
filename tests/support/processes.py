"""Programs under test: each in a session of its own, output kept, ended by process group."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pynomaly_tasks.embedded.child import Child
from support.waiting import wait_until

ROOT = Path(__file__).parents[2]  #: of the repository


class Program(Child):
    """A child process with what tests ask of one; see `Child` for stop, kill and signals."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it; ``env`` is added to the environment of the tests."""
        # What it starts is no process of our own parallel run, also where it is pytest itself.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}
        super().__init__(command, log=log, env={**ours, **(env or {})}, cwd=cwd or ROOT)

    def wait_for_output(self, pattern: str, timeout_s: float = 30.0) -> re.Match[str]:
        """The first match of a regular expression in the output; fails at once when the program ends."""

        def seen() -> re.Match[str] | None:
            running = self.is_running()  # asked first: what it wrote before its end still counts
            found = re.search(pattern, self.output(), re.MULTILINE)
            if found is None and not running:
                raise AssertionError(
                    f"{self.command} ended with {self.returncode} before it wrote {pattern!r}:\n"
                    f"{self.log_tail(60)}"
                )
            return found

        try:
            return wait_until(seen, timeout_s, f"{pattern!r} from {self.command}")
        except AssertionError as error:
            error.add_note(f"its output ends:\n{self.log_tail(60)}")
            raise

    def pause(self) -> None:
        """SIGSTOP the whole group: alive, holding its connections, doing nothing."""
        self.signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT the whole group."""
        self.signal_group(signal.SIGCONT)


class Programs:
    """Starts programs and ends whatever of them still runs when the test is over."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Program] = []

    def start(
        self,
        *command: str | Path,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: str | None = None,
        timeout_s: float = 30.0,
    ) -> Program:
        """Start one, and wait until its output matches ``ready`` where given. Log: ``<n>-<name>.log``."""
        label = name or Path(str(command[0])).name
        log = self.directory / f"{len(self.started)}-{label}.log"
        program = Program(command, log=log, env=env, cwd=cwd)
        self.started.append(program)
        if ready is not None:
            program.wait_for_output(ready, timeout_s)
        return program

    def python(self, *arguments: str | Path, **options: object) -> Program:
        """Start this interpreter with the arguments; options as of `start`."""
        return self.start(sys.executable, *arguments, **options)  # type: ignore[arg-type]  # passed through

    def celery_worker(
        self,
        app: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        name: str = "worker",
        timeout_s: float = 30.0,
    ) -> Program:
        """Start ``celery -A app worker`` and wait until it says that it is ready."""
        return self.start(
            sys.executable, "-m", "celery", "-A", app, "worker",
            "-n", f"{name}-{len(self.started)}@%h", *arguments,
            name=name, env=env, ready=r"\bready\.", timeout_s=timeout_s,
        )  # fmt: skip

    def close(self) -> None:
        """SIGKILL what still runs."""
        for program in reversed(self.started):
            program.kill()

    def report(self) -> str:
        """The end of every program's output, for a failed test."""
        return "\n".join(
            f"--- {program.log} (exit code {program.returncode})\n{program.log_tail(60)}"
            for program in self.started
        )

"""Other projects' own test suites, run unmodified with our transport in place of kombu's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.waiting import wait_until

TESTS = Path(__file__).parents[1]

#: Of the source distributions on PyPI. For another version: `pip download --no-deps --no-binary :all:` it,
#: look at it, and add its sum here.
SHA256 = {
    "kombu-5.7.0": "31e62fdfd2381caa3422f8e02b84a491d9a2180ddda74507b57f4cb1e1c2c2c9",
    "celery-5.7.0": "6a5dfcf6662287204f009a02002b9e66c83d4105e47ebabdc7079108772fc6f0",
}
#: Downloaded once for each virtual environment.
CACHE = Path(sys.prefix) / "upstream"
_DOWNLOAD_TIMEOUT_S = 240.0
#: A suite's tests that it marks as flaky itself get so many more tries, alone; kombu's CI gives them five.
N_MORE_TRIES = 2


def suite_of(package: str) -> Path:
    """The tests of the installed version of ``package``, from its source distribution on PyPI.

    Only the tests are unpacked: what they import is what is installed. Fails with what pip said.
    """
    name = f"{package}-{version(package)}"
    if name not in SHA256:
        raise AssertionError(
            f"{name} is installed, and {__file__} knows no SHA-256 of its source distribution"
        )
    suite = CACHE / name
    if not suite.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            _download(package, name, Path(scratch))
            shutil.rmtree(Path(scratch) / name / package, ignore_errors=True)
            try:
                (Path(scratch) / name).rename(suite)
            except OSError:
                if not suite.exists():  # else another process was faster
                    raise
    return suite


def _download(package: str, name: str, scratch: Path) -> None:
    requirement = scratch / "requirements.txt"
    requirement.write_text(f"{name.replace('-', '==')} --hash=sha256:{SHA256[name]}\n", "utf-8")
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", package, "--require-hashes",
         "--dest", str(scratch), "--requirement", str(requirement)],
        capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False,
    )  # fmt: skip
    if pip.returncode:
        raise AssertionError(f"pip could not download the tests of {name}:\n{pip.stdout}\n{pip.stderr}")
    # Before 3.11.4, which Debian 12 has not reached, Python knows no filters; the hash has been checked.
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(scratch / f"{name}.tar.gz") as archive:
        wanted = ("t", "setup.cfg", "pyproject.toml")
        archive.extractall(
            scratch,
            [entry for entry in archive if entry.name.split("/")[1:2] and entry.name.split("/")[1] in wanted],
            **safely,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Why a test is not expected to pass."""

    reason: str
    fails_on_both: bool = False  #: on kombu's own transport as well
    unsteady: bool = False  #: on both, now and then


def exclusions_in(path: Path) -> dict[str, Exclusion]:
    """Test id -> why it is excluded, from groups of [[excluded]] reason, tests."""
    found: dict[str, Exclusion] = {}
    for group in tomllib.loads(path.read_text("utf-8"))["excluded"]:
        tests = group.pop("tests")
        for test in tests:
            if test in found:
                raise AssertionError(f"{path.name} has {test} twice")
            found[test] = Exclusion(**group)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one test of a suite ended."""

    outcome: str  #: passed, failed, skipped or not run
    flaky: bool  #: says the suite itself
    why: str

    @property
    def is_bad(self) -> bool:
        """Neither passed nor skipped."""
        return self.outcome not in ("passed", "skipped")


class Suite:
    """Runs parts of one suite, on either transport."""

    def __init__(
        self,
        package: str,
        programs: Programs,
        start_redis: Callable[..., RedisServer],
        exclusions: dict[str, Exclusion],
        *,
        timeout_s: float = 280.0,
    ) -> None:
        self.root = suite_of(package)
        self.programs = programs
        self.start_redis = start_redis
        self.exclusions = exclusions
        self.timeout_s = timeout_s
        self._n_runs = 0

    def run(
        self, tests: Sequence[str], transport: str = "ours", *, n_processes: int = 1
    ) -> dict[str, Outcome]:
        """Run these files or test ids, each process with a Redis of its own; test id -> how it ended."""
        self._n_runs += 1
        report = self.programs.directory / f"{self.root.name}-{self._n_runs}.json"
        ports = [str(self.start_redis(appendonly=False).port) for _ in range(n_processes)]
        parallel = ["-n", str(n_processes), "--dist", "worksteal"] if n_processes > 1 else ["-p", "no:xdist"]
        program = self.programs.python(
            "-m", "pytest", "-p", "support.upstream_plugin", "-p", "no:randomly", "-p", "no:cacheprovider",
            "-q", "--tb", "native", "--timeout", "100", *parallel, *tests,
            name=f"{self.root.name}-{transport}",
            cwd=self.root,
            env={
                "UPSTREAM_TRANSPORT": transport,
                "UPSTREAM_REPORT": str(report),
                "UPSTREAM_REDIS_PORTS": " ".join(ports),
                "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                "WORKER_LOGLEVEL": "info",
                "PYTEST_ADDOPTS": "",
            },
        )  # fmt: skip
        wait_until(lambda: not program.is_running(), self.timeout_s, "the suite to end", every_s=0.2)
        if not report.exists():
            raise AssertionError(f"the suite ran nothing:\n{program.log_tail(60)}")
        return {nodeid: Outcome(**outcome) for nodeid, outcome in json.loads(report.read_text()).items()}

    def check(self, tests: Sequence[str], *, n_processes: int = 1) -> str:
        """Run these files on our transport: all pass but what is excluded, and that fails.

        Returns the counts. Fails with the names of what went otherwise.
        """
        outcomes = self.run(tests, n_processes=n_processes)
        for _ in range(N_MORE_TRIES):
            again = [name for name in self._unexpected(outcomes) if outcomes[name].flaky]
            if again:
                outcomes |= self.run(again)
        unexpected = self._unexpected(outcomes)
        files = {test.split("::")[0] for test in tests}
        excluded = [name for name in self.exclusions if name.split("::")[0] in files]
        unknown = [name for name in excluded if name not in outcomes]
        stale = [
            name for name in excluded
            if not self.exclusions[name].unsteady and name not in unknown and not outcomes[name].is_bad
        ]  # fmt: skip
        counts = Counter(
            "excluded" if name in self.exclusions else outcome.outcome for name, outcome in outcomes.items()
        )
        summary = f"{self.root.name} {' '.join(sorted(files))}: {len(outcomes)} tests, " + ", ".join(
            f"{count} {outcome}" for outcome, count in sorted(counts.items())
        )
        wrong = [
            *(f"failed, and is not excluded: {name}: {outcomes[name].why}" for name in unexpected),
            *(f"passes, and is excluded: {name}" for name in stale),
            *(f"is excluded, and does not exist: {name}" for name in unknown),
        ]
        assert not wrong, "\n".join([summary, *wrong])
        return summary

    def _unexpected(self, outcomes: dict[str, Outcome]) -> list[str]:
        return [name for name, outcome in outcomes.items() if outcome.is_bad and name not in self.exclusions]

    def check_exclusions_on_kombus_own(self) -> None:
        """The control: on kombu's transport what is excluded passes, but for what fails on both."""
        excluded = [name for name, exclusion in self.exclusions.items() if not exclusion.unsteady]
        outcomes: dict[str, Outcome] = {}
        # One file at a time: kombu's unit tests leave their own poller behind.
        for file in sorted({name.split("::")[0] for name in excluded}):
            outcomes |= self.run([name for name in excluded if name.split("::")[0] == file], "kombu's")
        wrong = [
            f"{name}: {outcomes[name].outcome} {outcomes[name].why}"
            if name in outcomes
            else f"{name}: not run"
            for name in excluded
            if name not in outcomes or outcomes[name].is_bad != self.exclusions[name].fails_on_both
        ]
        assert not wrong, "other than said on kombu's own transport:\n" + "\n".join(wrong)

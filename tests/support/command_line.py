"""The ``pynomaly`` command as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from support.processes import ROOT

PYNOMALY = Path(sys.executable).with_name("pynomaly")


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """This process' environment without its platform settings, and with ``env``."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("PYNOMALY_")}
    return {**kept, **env}


def run(
    *arguments: str, env: Mapping[str, str], stdin: str = "", timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run one command in a pipe, and wait for its end."""
    return subprocess.run(
        [PYNOMALY, *arguments], env=clean_environment(env), input=stdin, cwd=ROOT, capture_output=True,
        text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def refused(*arguments: str, env: Mapping[str, str], stdin: str = "", timeout_s: float = 60.0) -> str:
    """The one line that a refused command writes; fails unless that is all, with exit code 1."""
    done = run(*arguments, env=env, stdin=stdin, timeout_s=timeout_s)
    assert done.returncode == 1, (done.stdout, done.stderr)
    [line] = done.stderr.splitlines()
    assert line.startswith("pynomaly: "), line
    return line.removeprefix("pynomaly: ")

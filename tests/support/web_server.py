"""The web process under test: started as the Procfile starts it, on a port of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from support.processes import Program, Programs

ADDRESS = r"web page: (http://\S+)/"


def web_env(redis_url: str, data_directory: Path, **settings: str) -> dict[str, str]:
    """The environment of a platform in this directory; ``settings`` as ``WEB__API_KEY="..."``."""
    return {
        "PYNOMALY_REDIS__URL": redis_url,
        "PYNOMALY_DATA__DIRECTORY": str(data_directory),
        "PYNOMALY_WEB__PORT": "0",
        **{f"PYNOMALY_{name}": value for name, value in settings.items()},
    }


class Web:
    """A running web process and a client of it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.address = program.wait_for_output(ADDRESS).group(1)
        self.client = httpx.Client(base_url=self.address, timeout=15.0)


@contextmanager
def running_web(programs: Programs, env: Mapping[str, str], *prefix: str) -> Iterator[Web]:
    """The web process with this environment; ``prefix`` is a command to start it through."""
    import sys

    web = Web(programs.start(*prefix, sys.executable, "-m", "workers.web", name="web", env=env))
    try:
        yield web
    finally:
        web.client.close()
        web.program.kill()

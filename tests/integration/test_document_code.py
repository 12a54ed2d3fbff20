"""The Python of README and docs/ runs as it stands, on a running platform."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: Each page that shows Python, and all of it.
CODE = {
    str(page.relative_to(ROOT)): "\n".join(blocks)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if (blocks := BLOCK.findall(page.read_text("utf-8")))
}


@pytest.fixture(scope="module")
def platform_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a running platform: Redis, SQLite, and a worker for all queues."""
    directory = tmp_path_factory.mktemp("platform")
    with RedisServer(directory / "redis") as redis:
        env = {"PYNOMALY_REDIS__URL": redis.url, "PYNOMALY_DATA__DIRECTORY": str(directory / "data"),
               "PYNOMALY_DATA__ROOTS": f'["{ROOT}"]'}  # fmt: skip
        programs = Programs(directory / "programs")
        try:
            programs.celery_worker("workers.all", env=env)
            yield env
        finally:
            for program in programs.started:
                Child.stop(program, 10.0)
            programs.close()


@pytest.mark.parametrize("page", CODE)
def test_python_of_a_page_runs_from_top_to_bottom(
    page: str, platform_env: dict[str, str], programs: Programs
) -> None:
    name = Path(page).stem

    program = programs.python("-W", "error", "-c", CODE[page], env=platform_env, name=name)

    assert program.wait(120.0), program.log_tail()
    assert program.returncode == 0, program.log_tail(60)

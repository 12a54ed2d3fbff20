"""``pynomaly demo``: the main job on real data, with everything it needs started and ended."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import rich_click as click

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.settings import load_settings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@click.command()
def demo() -> None:
    """Detect, profile, report and notify on a real series and a real table, in under a minute."""
    from pynomaly_tasks.embedded.stack import EmbeddedStack

    script = EXAMPLES / "demo.py"
    if not script.is_file():
        raise InvalidSettings.of(
            "examples", f"{EXAMPLES} is not there: run the demo in a clone of the repository"
        )
    settings = load_settings()
    directory = settings.data.directory.absolute() / "demo"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    data = settings.data.model_copy(update={"directory": directory, "roots": (EXAMPLES / "data",)})
    stack = EmbeddedStack(
        settings.model_copy(update={"data": data, "web": settings.web.model_copy(update={"port": 0})})
    )
    click.echo("starting Redis, a worker, beat and the web page ...")
    with stack:
        click.echo(f"web page {stack.web_address} (redis: {stack.redis_flavour})")
        done = subprocess.run([sys.executable, script], env=stack.environment, check=False)
        click.echo("ending ...")
    if done.returncode:
        sys.exit(done.returncode)
    click.echo("done; `make up` starts the platform to keep.")

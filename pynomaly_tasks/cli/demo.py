"""``pynomaly demo``: the main job on real data, with everything it needs started and ended."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

import rich_click as click

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.settings import load_settings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: What a shell reports for a program that SIGTERM ended.
_TERMINATED = 143


@click.command()
@click.argument("script", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def demo(script: Path | None) -> None:
    """Detect, profile, report and notify on a real series and a real table, in under a minute.

    With SCRIPT, that Python program is run on the demo's platform instead; it may read datasets
    from the directory it is in.
    """
    from pynomaly_tasks.embedded.stack import EmbeddedStack

    script = script or EXAMPLES / "demo.py"
    if not script.is_file():
        raise InvalidSettings.of(
            "examples", f"{EXAMPLES} is not there: run the demo in a clone of the repository"
        )
    settings = load_settings()
    data = settings.data.model_copy(
        update={
            "directory": settings.data.directory.absolute() / "demo",
            "roots": (EXAMPLES / "data", script.absolute().parent),
        }
    )
    stack = EmbeddedStack(
        settings.model_copy(update={"data": data, "web": settings.web.model_copy(update={"port": 0})}),
        isolated=True,
        fresh=True,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    click.echo("starting Redis, a worker, events, beat and the web page ...")
    with stack:
        click.echo(f"web page {stack.web_address} (redis: {stack.redis_flavour})")
        # The script is a client as any other program is: it finds the platform by the environment.
        os.environ.clear()
        os.environ.update(stack.environment)
        runpy.run_path(str(script), run_name="__main__")
        click.echo("ending ...")
    click.echo("done; `make up` starts the platform to keep.")

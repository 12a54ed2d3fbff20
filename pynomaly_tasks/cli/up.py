"""``pynomaly up``: the embedded platform, until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event

import rich_click as click

from pynomaly_tasks.embedded.ports import is_free
from pynomaly_tasks.settings import load_settings


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help="Of the web page; another free one is taken when it is in use.",
)
@click.option("--flower", is_flag=True, help="Start Flower too.")
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory that datasets may be read from.",
)
def up(port: int | None, flower: bool, roots: tuple[Path, ...]) -> None:
    """Start Redis, a worker, the relay and consumers of events, beat and the web page on this machine and keep them running."""
    from pynomaly_tasks.embedded.stack import EmbeddedStack

    settings = load_settings()
    wanted = settings.web.port if port is None else port
    if wanted and not is_free(wanted):
        click.echo(f"port {wanted} is in use; the web page takes another", err=True)
        wanted = 0
    web = settings.web.model_copy(update={"port": wanted})
    data = settings.data.model_copy(
        update={"roots": (*settings.data.roots, *(root.absolute() for root in roots))}
    )
    # While things start, both signals stop that at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stack = EmbeddedStack(
        settings.model_copy(update={"web": web, "data": data}),
        restart=True,
        flower=flower,
        on_exit=lambda name, code: click.echo(f"{name} ended with {code}; it is started again", err=True),
    )
    click.echo("starting Redis, a worker, events, beat and the web page ...")
    with stack:
        stop = Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        click.echo(f"web page   {stack.web_address}")
        if stack.flower_address:
            click.echo(f"flower     {stack.flower_address}")
        click.echo(f"data       {stack.directory}")
        click.echo(f"logs       {stack.log_directory}")
        click.echo(f"redis      {stack.redis_flavour}")
        click.echo("Ctrl-C ends it.")
        stack.watch(stop)
        click.echo("ending ...")
        # A second Ctrl-C: no more patience with what still works.
        signal.signal(signal.SIGINT, signal.default_int_handler)

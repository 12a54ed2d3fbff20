"""The relay and every consumer group of the platform in one process: what one machine needs.

``python -m workers.events``. Any number may run: one relay publishes, and each partition of a topic is
read by one member of a group. Where more goes on, each part is a process of its own: ``workers.relay``,
``workers.consumer_*``.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from pynomaly_tasks.bootstrap import Platform, build_platform
from pynomaly_tasks.consumers.groups import OURS
from pynomaly_tasks.consumers.run import run_group
from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.settings import load_settings
from pynomaly_tasks.telemetry import configure_logging, get_logger, serve_metrics

log = get_logger(__name__)


def main() -> None:
    """Publish and consume until SIGINT or SIGTERM."""
    settings = load_settings()
    configure_logging(level=settings.log.level, format=settings.log.format)
    platform = build_platform(settings)
    try:
        serve_metrics(settings.metrics.host, settings.metrics.port)
        asyncio.run(_run(platform))
    finally:
        platform.close()


async def _run(platform: Platform) -> None:
    stop, relay = asyncio.Event(), platform.relay
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    groups = [asyncio.create_task(run_group(platform, name, stop), name=name) for name in OURS]
    running = [asyncio.create_task(relay.run(), name="relay"), *groups]
    stopping = asyncio.create_task(stop.wait(), name="stop")
    log.info("events_started", groups=OURS)
    # One that fails ends the process, which whoever watches over it starts again; the others leave first.
    await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    relay.stop()
    await asyncio.wait(running)
    for task in running:
        task.result()


if __name__ == "__main__":
    try:
        main()
    except InvalidSettings as error:
        sys.exit(f"pynomaly events: {error}")

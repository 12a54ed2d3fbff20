"""The relay that publishes events: ``python -m workers.relay``. Any number may run; one publishes."""

from __future__ import annotations

import asyncio
import sys

from pynomaly_tasks.bootstrap import build_platform
from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.events.relay import run_until_signal
from pynomaly_tasks.settings import load_settings
from pynomaly_tasks.telemetry import configure_logging, serve_metrics


def main() -> None:
    """Publish until SIGINT or SIGTERM."""
    settings = load_settings()
    configure_logging(level=settings.log.level, format=settings.log.format)
    platform = build_platform(settings)
    try:
        serve_metrics(settings.metrics.host, settings.metrics.port)
        asyncio.run(run_until_signal(platform.relay))
    finally:
        platform.close()


if __name__ == "__main__":
    try:
        main()
    except InvalidSettings as error:
        sys.exit(f"pynomaly relay: {error}")

"""The web page and its JSON interface: one process, as many as wanted behind a load balancer."""

from __future__ import annotations

import sys

from pynomaly_tasks.bootstrap import build_platform
from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.settings import load_settings
from pynomaly_tasks.telemetry import configure_logging
from pynomaly_tasks.web.app import create_app
from pynomaly_tasks.web.server import serve


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = load_settings()
    configure_logging(level=settings.log.level, format=settings.log.format)
    platform = build_platform(settings)
    try:
        serve(create_app(platform), settings.web.host, settings.web.port)
    finally:
        platform.close()


if __name__ == "__main__":
    try:
        main()
    except InvalidSettings as error:
        sys.exit(f"pynomaly web: {error}")

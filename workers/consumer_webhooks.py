"""The group ``webhooks``: events are posted to the receivers that the settings name. Any number may run."""

from __future__ import annotations

import sys

from pynomaly_tasks.bootstrap import build_platform
from pynomaly_tasks.consumers.run import serve_groups
from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.settings import load_settings
from pynomaly_tasks.telemetry import configure_logging


def main() -> None:
    """Consume until SIGINT or SIGTERM."""
    settings = load_settings()
    configure_logging(level=settings.log.level, format=settings.log.format)
    platform = build_platform(settings)
    try:
        serve_groups(platform, "webhooks")
    finally:
        platform.close()


if __name__ == "__main__":
    try:
        main()
    except InvalidSettings as error:
        sys.exit(f"pynomaly webhooks: {error}")

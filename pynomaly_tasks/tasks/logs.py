"""Worker and beat write the platform's log lines; Celery's own setup is left out."""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import setup_logging

from pynomaly_tasks.settings import current_settings
from pynomaly_tasks.telemetry import configure_logging


@setup_logging.connect
def _configure(loglevel: int | None = None, **kwargs: Any) -> None:
    """``-l`` may ask for more than the setting log.level, not for less."""
    log = current_settings().log
    configure_logging(level=log.level, format=log.format)
    asked = min(loglevel or logging.CRITICAL, logging.getLogger().level)
    logging.getLogger().setLevel(asked)

"""The first thing a process under Celery's command does: read its settings."""

from __future__ import annotations

import sys

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.settings import Settings, current_settings


def settings_or_exit(process: str) -> Settings:
    """The settings; wrong ones end the process with one line, where Celery would print a traceback."""
    try:
        return current_settings()
    except InvalidSettings as error:
        sys.exit(f"pynomaly {process}: {error}")

"""The platform as the commands reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click import get_current_context

from pynomaly_tasks.settings import current_settings
from pynomaly_tasks.telemetry import configure_logging

if TYPE_CHECKING:
    from pynomaly_tasks.bootstrap import Platform


def connect() -> Platform:
    """This environment's platform, closed when the command ends; warnings go to standard error.

    Raises InvalidSettings.
    """
    configure_logging(level="warning", format=current_settings().log.format)
    from pynomaly_tasks.bootstrap import current_platform

    platform = current_platform()
    get_current_context().call_on_close(platform.close)
    return platform

"""The channel that is always there: the platform's own log."""

from __future__ import annotations

import structlog

log = structlog.get_logger(__name__)


class LogChannel:
    """Writes each notification to the log."""

    def check(self) -> None:
        """Always fine."""

    def send(self, subject: str, body: str) -> None:
        """Deliver. Cannot fail."""
        log.info("notification", subject=subject, body=body)

"""One Apprise URL: mail, chat, push services and webhooks.

The URL is a secret. Nothing that leaves this module holds any part of it: errors are written from
the outcome and the HTTP status alone, and the loggers that would print URLs are kept quiet.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import Any

from pydantic import SecretStr

from pynomaly_tasks.errors import DeliveryFailed, InvalidSettings

_HTTP_STATUS = re.compile(r"\berror=([1-5]\d\d)\b")
_NO_CONNECTION = re.compile(r"connection error|socket|could not connect", re.IGNORECASE)


class AppriseChannel:
    """Delivers through one Apprise URL, within ``timeout_s`` or not at all as far as we know."""

    def __init__(self, name: str, url: SecretStr, *, timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._url = url
        self._lock = threading.Lock()
        self._apprise: Any = None

    def __repr__(self) -> str:
        return f"AppriseChannel({self.name!r})"

    def check(self) -> None:
        """Raise InvalidSettings unless the URL is one that Apprise can use. Sends nothing."""
        self._opened()

    def send(self, subject: str, body: str) -> None:
        """Deliver. Raises DeliveryFailed; after a timeout the message may still arrive."""
        from apprise import NotifyFormat

        # One message at a time: Apprise's plugins keep state, such as when they may send next.
        if not self._lock.acquire(timeout=self.timeout_s):
            raise DeliveryFailed(f"channel {self.name}: busy for {self.timeout_s:g} s with other messages")
        try:
            result = self._opened().notify(title=subject, body=body, body_format=NotifyFormat.TEXT)
        finally:
            self._lock.release()
        # The attempts, not the result: a URL with `optional=yes` turns a failure into a success.
        attempts = [attempt for service in result for attempt in service]
        if not any(attempts):
            raise DeliveryFailed(f"channel {self.name}: {self._reason(attempts)}")

    def _opened(self) -> Any:
        if self._apprise is None:
            self._apprise = self._open()
        return self._apprise

    def _open(self) -> Any:
        _keep_urls_out_of_logs()
        from apprise import Apprise, AppriseAsset

        asset = AppriseAsset(
            app_id="Pynomaly",
            app_desc="Pynomaly anomaly detection",
            app_url="",
            service_timeout=self.timeout_s,
            # A redirected POST arrives as a GET without its body, and counts as delivered.
            http_redirects=False,
            interpret_emojis=False,
        )
        plugin = Apprise.instantiate(self._url.get_secret_value(), asset=asset)
        if plugin is None:
            raise InvalidSettings.of(
                f"notifications.channels.{self.name}",
                "is not an Apprise URL that can be used here; see https://appriseit.com/services/ "
                "for each service's form, such as jsons://host/path or mailtos://user:password@host",
            )
        for part in ("socket_connect_timeout", "socket_read_timeout"):
            setattr(plugin, part, min(self.timeout_s, getattr(plugin, part)))
        return Apprise(plugin, asset=asset)

    def _reason(self, attempts: list[Any]) -> str:
        from apprise.result import AppriseResultStatus

        if any(attempt.status is AppriseResultStatus.TIMEOUT for attempt in attempts):
            return f"no answer within {self.timeout_s:g} s"
        told = " ".join(entry.message for attempt in attempts for entry in attempt)
        if status := _HTTP_STATUS.search(told):
            return f"the service answered with HTTP status {status[1]}"
        if _NO_CONNECTION.search(told):
            return "the service could not be reached, or did not answer in time"
        return "the service did not take the message"


def _keep_urls_out_of_logs() -> None:
    """Apprise prints URLs at its debug level, urllib3 their paths, where chat services keep tokens."""
    apprise = logging.getLogger("apprise")
    apprise.propagate = False  # it has a null handler of its own; results still capture its records
    urllib3 = logging.getLogger("urllib3")
    urllib3.setLevel(max(urllib3.level, logging.INFO))

"""Signed HTTP posts of events to other people's addresses, after the Standard Webhooks convention.

Neither the address nor the secret leaves this module: errors are written from the endpoint's name
and the HTTP status alone.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from pynomaly_tasks.errors import DeliveryFailed, InvalidSettings, PynomalyError

if TYPE_CHECKING:
    from standardwebhooks import Webhook

_LONGEST_RETRY_AFTER_S = 3_600.0
_MAX_ANSWER_BYTES = 65_536
_GONE = 410
#: Not the receiver's last word, whatever their class says: timeout, too early, too many.
_TRY_AGAIN = frozenset({408, 421, 425, 429})


class WebhookRefused(PynomalyError):
    """The receiver answered that it will never take this post."""


class WebhookDelayed(DeliveryFailed):
    """The receiver did not take the post now; ``retry_after_s`` is what it asked for, if anything."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (*self.args, self.retry_after_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What a receiver answered that took the post."""

    status: int
    duration_s: float


class WebhookEndpoint:
    """One receiver."""

    def __init__(
        self,
        name: str,
        url: SecretStr,
        secret: SecretStr,
        event_types: Sequence[str] = ("*",),
        *,
        timeout_s: float,
        allow_private: bool = False,
    ) -> None:
        """``allow_private``: also addresses of this network, and plain http to them."""
        self.name = name
        self._url = url
        self._secret = secret
        self._event_types = tuple(event_types)
        self._timeout_s = timeout_s
        self._allow_private = allow_private

    def __repr__(self) -> str:
        return f"WebhookEndpoint({self.name!r})"

    def wants(self, event_type: str) -> bool:
        """Whether events of the type are posted there."""
        return any(fnmatchcase(event_type, pattern) for pattern in self._event_types)

    def check(self) -> None:
        """Raise InvalidSettings unless address and secret can be used. Sends nothing."""
        _ = self._target, self._signer

    def post(self, message_id: str, body: bytes) -> Posted:
        """Post, signed; the same ``message_id`` again is the same message to the receiver.

        Raises WebhookRefused for what trying again cannot mend, WebhookDelayed for the rest,
        InvalidSettings.
        """
        import httpx

        _keep_urls_out_of_logs()
        target, address = self._target, self._address()
        begun_s = time.monotonic()
        now = datetime.now(UTC)
        headers = {
            "Host": target.netloc.rpartition("@")[2],
            "Content-Type": "application/cloudevents+json",
            "User-Agent": "pynomaly-tasks",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message_id, now, body.decode()),
        }
        try:
            # trust_env off: a proxy of the environment would resolve the name again, unchecked.
            with (
                httpx.Client(timeout=self._timeout_s, follow_redirects=False, trust_env=False) as client,
                client.stream(
                    "POST",
                    self._url_to(address),
                    content=body,
                    headers=headers,
                    extensions={"sni_hostname": target.hostname},
                ) as answer,
            ):
                # The rest of the time limit: httpx counts it anew for each piece that arrives.
                _read_some(answer.iter_raw(), begun_s + self._timeout_s)
                status, retry_after = answer.status_code, answer.headers.get("retry-after")
        except httpx.TimeoutException:
            raise WebhookDelayed(f"webhook {self.name}: no answer within {self._timeout_s:g} s") from None
        except httpx.HTTPError as error:
            # Without its cause: httpx's own message holds the address.
            raise WebhookDelayed(f"webhook {self.name}: not reached ({type(error).__name__})") from None
        self._judge(status, retry_after)
        return Posted(status=status, duration_s=time.monotonic() - begun_s)

    def _judge(self, status: int, retry_after: str | None) -> None:
        if 200 <= status < 300:
            return
        said = f"webhook {self.name}: answered with HTTP status {status}"
        if status >= 500 or status in _TRY_AGAIN:
            raise WebhookDelayed(said, _seconds(retry_after))
        if status == _GONE:
            raise WebhookRefused(
                f"{said}: it is gone for good; take it out of the setting webhooks.endpoints"
            )
        if 300 <= status < 400:
            raise WebhookRefused(f"{said}: redirects are not followed; put the new address into its setting")
        raise WebhookRefused(said)

    @cached_property
    def _signer(self) -> Webhook:
        from standardwebhooks import Webhook

        try:
            return Webhook(self._secret.get_secret_value())
        except Exception:  # of the library, and of base64
            raise InvalidSettings.of(
                f"webhooks.endpoints.{self.name}.secret",
                "is no Standard Webhooks secret; it is whsec_ and 24 to 64 bytes in base64",
            ) from None

    @cached_property
    def _target(self) -> SplitResult:
        field = f"webhooks.endpoints.{self.name}.url"
        try:
            target = urlsplit(self._url.get_secret_value())
            _ = target.port
        except ValueError:
            raise InvalidSettings.of(field, "is not an address such as https://host/path") from None
        if target.scheme not in {"http", "https"} or not target.hostname:
            raise InvalidSettings.of(field, "must start with https:// and name a host")
        if target.scheme == "http" and not (self._allow_private or _is_loopback_name(target.hostname)):
            raise InvalidSettings.of(
                field, "must start with https://; plain http goes to this machine only, or with allow_private"
            )
        if target.username or target.password:
            raise InvalidSettings.of(field, "must not hold a user or password; the signature tells who posts")
        return target

    def _address(self) -> str:
        """Where the name leads just now. What is posted to goes there, and cannot be led elsewhere."""
        target = self._target
        host = target.hostname or ""
        port = target.port or (443 if target.scheme == "https" else 80)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise WebhookDelayed(f"webhook {self.name}: its host's name is not found") from None
        addresses = [str(one[4][0]) for one in found]
        # A name that leads here or inside by somebody else's doing reaches what only we should reach.
        if not self._allow_private and not _is_loopback_name(host):
            addresses = [one for one in addresses if ipaddress.ip_address(one).is_global]
            if not addresses:
                raise WebhookRefused(
                    f"webhook {self.name}: its host leads to an address of this network; set allow_private "
                    "for it if that is meant"
                )
        return addresses[0]

    def _url_to(self, address: str) -> str:
        target = self._target
        host = f"[{address}]" if ":" in address else address
        port = f":{target.port}" if target.port else ""
        return target._replace(netloc=host + port, fragment="").geturl()


class Webhooks:
    """All receivers by name."""

    def __init__(self, endpoints: Iterable[WebhookEndpoint] = ()) -> None:
        self._by_name = {endpoint.name: endpoint for endpoint in endpoints}

    def find(self, name: str) -> WebhookEndpoint | None:
        """The receiver, or None when the settings name none so."""
        return self._by_name.get(name)

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._by_name))

    def wanting(self, event_type: str) -> tuple[str, ...]:
        """Names of those that events of the type are posted to, sorted."""
        return tuple(name for name in self.names() if self._by_name[name].wants(event_type))

    def check(self) -> None:
        """Raise InvalidSettings naming the first that cannot be used. Sends nothing."""
        for endpoint in self._by_name.values():
            endpoint.check()


def build_webhooks(endpoints: Mapping[str, Any], timeout_s: float) -> Webhooks:
    """From the settings: name to url, secret, event_types and allow_private."""
    return Webhooks(
        WebhookEndpoint(
            name,
            one.url,
            one.secret,
            one.event_types,
            timeout_s=timeout_s,
            allow_private=one.allow_private,
        )
        for name, one in endpoints.items()
    )


def _keep_urls_out_of_logs() -> None:
    """httpx prints each address at level info, httpcore headers at level debug."""
    for name, level in (("httpx", logging.WARNING), ("httpcore", logging.INFO)):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, level))


def _is_loopback_name(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_some(chunks: Iterable[bytes], until_s: float) -> None:
    """A little of the answer, so that the receiver can finish; nobody reads it."""
    import httpx

    n_bytes = 0
    for chunk in chunks:
        n_bytes += len(chunk)
        if n_bytes > _MAX_ANSWER_BYTES:
            return
        if time.monotonic() > until_s:
            raise httpx.ReadTimeout("the answer did not end")


def _seconds(retry_after: str | None) -> float | None:
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 10:
        seconds = float(retry_after)
    else:
        try:
            when = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER_S)

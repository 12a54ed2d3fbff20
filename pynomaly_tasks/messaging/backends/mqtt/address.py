"""Where an MQTT broker is, and how to talk to it, as a URL says."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from pynomaly_tasks.errors import InvalidSettings

#: Most messages that MQTT lets a broker hand to one session before some are acknowledged.
MOST_IN_FLIGHT = 65_535
_LEAST_IN_FLIGHT = 100


@dataclass(frozen=True, slots=True)
class Address:
    """``mqtt://user:password@host:1883?qos=1&window=65535``; ``mqtts://`` is over TLS, with ``ca_file`` its own CA."""

    host: str
    port: int
    is_tls: bool
    user: str | None
    password: str | None
    qos: int  #: of what is sent
    window: int  #: most messages of one queue that its host has in memory
    ca_file: str | None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises InvalidSettings; the URL's password is in no message."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _invalid("is no URL; an example is mqtt://127.0.0.1:1883") from None
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise _invalid("must be mqtt:// or mqtts:// with a host, such as mqtt://127.0.0.1:1883")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(options) - {"qos", "window", "ca_file"})
        if unknown:
            raise _invalid(f"has the option {unknown[0]!r:.40}; there are qos, window and ca_file")
        qos, window = options.get("qos", "1"), options.get("window", str(MOST_IN_FLIGHT))
        if qos not in ("1", "2"):
            raise _invalid(f"says qos={qos!r:.20}; it must be 1 or 2, the quality of service of what is sent")
        if not window.isdecimal() or not _LEAST_IN_FLIGHT <= int(window) <= MOST_IN_FLIGHT:
            raise _invalid(f"says window={window!r:.20}; it must be {_LEAST_IN_FLIGHT} to {MOST_IN_FLIGHT:,}")
        is_tls = parts.scheme == "mqtts"
        if "ca_file" in options and not is_tls:
            raise _invalid("says ca_file, which is for mqtts:// alone")
        return cls(
            host=parts.hostname,
            port=port or (8883 if is_tls else 1883),
            is_tls=is_tls,
            user=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            qos=int(qos),
            window=int(window),
            ca_file=options.get("ca_file"),
        )

    def tls_context(self) -> ssl.SSLContext | None:
        """Checks the certificate and the name. Raises InvalidSettings for a CA file that cannot be read."""
        if not self.is_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise _invalid(f"says ca_file={self.ca_file!r:.200}, which cannot be read: {error}") from error
        context.sslsocket_class = _ClosingSocket
        return context


class _ClosingSocket(ssl.SSLSocket):
    """Closed when its handshake fails: the client library forgets it then."""

    def do_handshake(self, block: bool = False) -> None:
        """As of any."""
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _invalid(why: str) -> InvalidSettings:
    return InvalidSettings.of("messaging.url", why)

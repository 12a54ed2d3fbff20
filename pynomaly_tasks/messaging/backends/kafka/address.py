"""Where Kafka is, and how to get in: from a URL to what aiokafka's clients take."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from aiokafka.helpers import create_ssl_context

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.telemetry import calm_kafka_logs

KEEP_HOURS = 24.0
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_OPTIONS = ("mechanism", "ca_file", "replication", "keep_hours")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaAddress:
    """Where Kafka is, and how to get in."""

    servers: str  #: host:port, comma separated
    security_protocol: str = "PLAINTEXT"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    mechanism: str = "PLAIN"
    ca_file: str | None = None  #: None: the authorities that the system trusts

    def options(self) -> dict[str, Any]:
        """Arguments that each of aiokafka's clients takes. Raises InvalidSettings."""
        calm_kafka_logs()
        options: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            try:
                options["ssl_context"] = create_ssl_context(cafile=self.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise InvalidSettings.of(
                    "messaging.url", f"{self.ca_file} holds no certificates that can be read: {error}"
                ) from error
        if self.security_protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return options


def parse_url(url: str) -> tuple[KafkaAddress, dict[str, str]]:
    """Address and options. Raises InvalidSettings, without the password."""
    parts = urlsplit(url)
    if parts.scheme not in ("kafka", "kafkas") or not parts.netloc:
        raise _bad_url("must be kafka://host:port,host:port, or kafkas:// for TLS")
    login, _, servers = parts.netloc.rpartition("@")
    hosts = servers.split(",")
    if not all(re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):\d{1,5}", host) for host in hosts):
        raise _bad_url(f"names each broker as host:port, not {servers!r:.120}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise _bad_url(f"has the option {unknown[0]!r:.40}; they are {', '.join(_OPTIONS)}")
    mechanism = options.get("mechanism", "PLAIN")
    if mechanism not in _MECHANISMS:
        raise _bad_url(f"has the mechanism {mechanism!r:.40}; they are {', '.join(_MECHANISMS)}")
    username, _, password = login.partition(":")
    transport = "SSL" if parts.scheme == "kafkas" else "PLAINTEXT"
    address = KafkaAddress(
        servers=servers,
        security_protocol=f"SASL_{transport}" if login else transport,
        username=unquote(username) if login else None,
        password=unquote(password) if login else None,
        mechanism=mechanism,
        ca_file=options.get("ca_file"),
    )
    return address, options


def _bad_url(why: str) -> InvalidSettings:
    return InvalidSettings.of("messaging.url", why)


def find_number(options: dict[str, str], name: str) -> int | None:
    """An option that is a whole number, from 1 on; None where it is not given. Raises InvalidSettings."""
    text = options.get(name)
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 32_767:
        raise _bad_url(f"has the {name} {text!r:.40}; it must be a whole number, 1 to 32,767")
    return int(text)


def find_hours(options: dict[str, str]) -> float:
    """The option keep_hours. Raises InvalidSettings."""
    try:
        hours = float(options.get("keep_hours", KEEP_HOURS))
    except ValueError:
        hours = -1.0
    if not 0 <= hours <= 87_660:
        raise _bad_url(
            f"has the keep_hours {options['keep_hours']!r:.40}; it must be a number of hours, 0 to 87,660"
        )
    return hours

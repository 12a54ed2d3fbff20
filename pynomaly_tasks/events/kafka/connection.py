"""How to reach Kafka, and why it could not be reached."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.conn import collect_hosts
from aiokafka.helpers import create_ssl_context

from pynomaly_tasks.errors import EventLogUnavailable, InvalidSettings
from pynomaly_tasks.kafka_client.reasons import Places, describe, find_reasons
from pynomaly_tasks.telemetry import calm_kafka_logs

_PROBE_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConnection:
    """Address, protocol and credentials; the settings' section `kafka`."""

    bootstrap_servers: str  #: host:port, comma separated
    security_protocol: str = "PLAINTEXT"  #: SSL, SASL_PLAINTEXT or SASL_SSL
    sasl_mechanism: str = "PLAIN"  #: SCRAM-SHA-256 or SCRAM-SHA-512
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_ca_file: Path | None = None  #: None: the authorities that the system trusts

    @property
    def uses_sasl(self) -> bool:
        """Whether Kafka is told a name and a password."""
        return self.security_protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted, and Kafka shows a certificate."""
        return self.security_protocol.endswith("SSL")

    def client_options(self) -> dict[str, Any]:
        """Arguments that every client of aiokafka takes. Raises InvalidSettings."""
        calm_kafka_logs()
        self._check_servers()
        return {"bootstrap_servers": self.bootstrap_servers, **self._connection_options()}

    def _check_servers(self) -> None:
        try:
            hosts = collect_hosts(self.bootstrap_servers, randomize=False)
        except ValueError:
            hosts = []
        if not hosts or not all(host.strip() and 0 < port < 65_536 for host, port, _ in hosts):
            raise InvalidSettings.of(
                "kafka.bootstrap_servers", f"host:port, comma separated, not {self.bootstrap_servers!r}"
            )

    def _connection_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.uses_tls:
            options["ssl_context"] = self._ssl_context()
        if self.uses_sasl:
            if self.sasl_username is None or self.sasl_password is None:
                missing = "sasl_username" if self.sasl_username is None else "sasl_password"
                raise InvalidSettings.of(f"kafka.{missing}", f"needed with {self.security_protocol}")
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context: ssl.SSLContext = create_ssl_context(cafile=self.ssl_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSettings.of(
                "kafka.ssl_ca_file", f"{self.ssl_ca_file} holds no certificates that can be read: {error}"
            ) from error
        return context

    async def explain(self, error: BaseException, timeout_s: float) -> EventLogUnavailable:
        """The error that says why nothing could be done: aiokafka only logs the reason.

        Asks each bootstrap server once, within the time and three seconds.
        """
        places = Places(
            servers="kafka.bootstrap_servers",
            protocol=f"kafka.security_protocol, which is {self.security_protocol}",
            login="kafka.sasl_username, kafka.sasl_password and kafka.sasl_mechanism",
            mechanism="kafka.sasl_mechanism",
            ca_file="kafka.ssl_ca_file",
        )
        reasons = await find_reasons(self.client_options(), places, min(timeout_s, _PROBE_TIMEOUT_S))
        if reasons is not None:
            return EventLogUnavailable(f"Kafka gave no answer: {reasons}")
        # Such as a partition without a leader, or with too few replicas in sync.
        return EventLogUnavailable(
            f"Kafka ({self.bootstrap_servers}) answers, but not this: {describe(error)}"
        )

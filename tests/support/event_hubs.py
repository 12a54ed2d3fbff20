"""What Azure Event Hubs looks like from outside, of real parts: Apache Kafka behind TLS and its login."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from support.kafka import KafkaNode
from support.transport_servers import make_certificates

POLICY = "SharedAccessKeyName=all;SharedAccessKey=bm90IGEgc2VjcmV0IGF0IGFsbCEhIQ=="


class EventHubsListener(KafkaNode):
    """A Kafka whose second listener lets in who shows a connection string, over TLS.

    It takes no message over 1 MB, stamps each with its own time, and nobody may delete records.
    """

    def __init__(self, directory: Path) -> None:
        """Nothing runs yet."""
        self.certificates = make_certificates(directory)
        pem = directory / "server.pem"
        pem.write_text(self.certificates.key.read_text() + self.certificates.certificate.read_text())
        super().__init__(
            properties={
                "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_SSL",
                "listener.name.sasl.ssl.keystore.type": "PEM",
                "listener.name.sasl.ssl.keystore.location": pem,
                "message.max.bytes": 1_048_576,
                "log.message.timestamp.type": "LogAppendTime",
            }
        )

    @property
    def connection_string(self) -> str:
        """With the authority that vouches for it."""
        return f"{self._shown};CaFile={self.certificates.authority}"

    @property
    def _shown(self) -> str:
        return f"Endpoint=sb://127.0.0.1:{self.sasl_port}/;{POLICY}"

    def format(self, voters: Mapping[int, int]) -> None:
        """As any node, and with the login for the port that was chosen."""
        self._properties["listener.name.sasl.plain.sasl.jaas.config"] = (
            "org.apache.kafka.common.security.plain.PlainLoginModule required "
            f'user_$ConnectionString="{self._shown}";'
        )
        super().format(voters)

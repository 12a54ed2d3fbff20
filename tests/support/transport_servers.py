"""Brokers as production has them: behind Sentinel, over TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.waiting import wait_until

MASTER = "mymaster"


@dataclass(frozen=True, slots=True)
class Sentinel:
    """One sentinel that watches a master and its replica."""

    port: int

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port}/1"

    def master_port(self) -> int:
        """Of the server that it takes for the master now."""
        with redis.Redis(port=self.port) as client:
            return int(client.sentinel_get_master_addr_by_name(MASTER)[1])


def start_sentinel(programs: Programs, directory: Path, master: RedisServer) -> Sentinel:
    """Start one that promotes the replica when the master was away for a second."""
    port = find_free_port()
    configuration = directory / f"sentinel-{port}.conf"
    configuration.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {directory}\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 1\n"
        f"sentinel down-after-milliseconds {MASTER} 1000\n"
        f"sentinel failover-timeout {MASTER} 5000\n"
    )
    programs.start(master.binary, configuration, "--sentinel", name="sentinel", ready=r"\+monitor master")
    with redis.Redis(port=port) as client:
        wait_until(lambda: client.sentinel_slaves(MASTER), 20, "the sentinel to find the replica")
    return Sentinel(port)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Of an authority that only this test knows, and of a server on loopback."""

    authority: Path
    certificate: Path
    key: Path

    def server_arguments(self, port: int) -> list[str]:
        """For redis-server, to take TLS on this port."""
        return ["--tls-port", str(port), "--tls-cert-file", str(self.certificate),
                "--tls-key-file", str(self.key), "--tls-ca-cert-file", str(self.authority),
                "--tls-auth-clients", "no"]  # fmt: skip


def make_certificates(directory: Path) -> Certificates:
    """Write them there."""
    now = dt.datetime.now(dt.UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])

    def certificate(
        name: x509.Name, of: ec.EllipticCurvePrivateKey, *, is_authority: bool
    ) -> x509.Certificate:
        loopback = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(loopback, critical=False)
            .sign(authority_key, hashes.SHA256())
        )

    made = Certificates(directory / "ca.crt", directory / "redis.crt", directory / "redis.key")
    pem = serialization.Encoding.PEM
    made.authority.write_bytes(certificate(issuer, authority_key, is_authority=True).public_bytes(pem))
    made.certificate.write_bytes(certificate(subject, key, is_authority=False).public_bytes(pem))
    made.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made

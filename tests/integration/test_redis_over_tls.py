"""The platform on a Redis that speaks TLS only, with a certificate of an authority of its own."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pynomaly_tasks import send_notification
from pynomaly_tasks.core.job import DeadReason, JobState
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import BrokerUnavailable
from support.stack import Stack, client
from support.waiting import wait_until


def _write_certificate(directory: Path) -> None:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis of a test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (directory / "redis.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "redis.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.fixture
def tls_url(tmp_path: Path, start_redis: Callable[..., RedisServer]) -> str:
    """Address of the server's TLS port, without options."""
    _write_certificate(tmp_path)
    port = find_free_port()
    start_redis(
        extra_args=(
            "--tls-port", str(port), "--tls-auth-clients", "no", "--tls-cert-file", str(tmp_path / "redis.crt"),
            "--tls-key-file", str(tmp_path / "redis.key"), "--tls-ca-cert-file", str(tmp_path / "redis.crt"),
        )
    )  # fmt: skip
    return f"rediss://127.0.0.1:{port}"


@pytest.fixture
def stack(tmp_path: Path, tls_url: str, own_redis: RedisServer) -> Iterator[Stack]:
    env = {"PYNOMALY_REDIS__URL": f"{tls_url}?ssl_ca_certs={tmp_path / 'redis.crt'}"}
    stack = Stack(tmp_path / "stack", own_redis, env)
    with client(stack):
        yield stack
        stack.close()


def test_jobs_run_and_what_is_malformed_is_kept(stack: Stack) -> None:
    stack.worker("workers.all", "-c", "1")

    job = send_notification.delay(body="x")
    summary = job.get(timeout=30)
    stack.platform.queue._client().lpush("default", b"\xff garbage")
    letters = wait_until(stack.platform.store.list_dead_letters, 20, "a dead letter")

    assert summary["delivered"] == ["log"]
    assert stack.platform.store.get_job(job.id).state is JobState.SUCCEEDED
    assert [(letter.reason, bytes(letter.payload)) for letter in letters] == [
        (DeadReason.UNREADABLE, b"\xff garbage")
    ]


def test_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path, tls_url: str, own_redis: RedisServer
) -> None:
    stack = Stack(tmp_path / "stack", own_redis, {"PYNOMALY_REDIS__URL": tls_url})
    with client(stack):
        job = stack.platform.submit("send_notification", {"body": "x"})

        with pytest.raises(BrokerUnavailable, match="certificate"):
            stack.platform.queue.publish([job])
        with pytest.raises(BrokerUnavailable, match="certificate"):
            stack.platform.queue.check_results()

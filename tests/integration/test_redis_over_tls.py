"""The platform on a Redis that speaks TLS only, with a certificate of an authority of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pynomaly_tasks import send_notification
from pynomaly_tasks.core.job import DeadReason, JobState
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.events.ports import Record
from support.stack import Stack, client
from support.transport_servers import Certificates, make_certificates
from support.waiting import wait_until


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture
def tls_url(certificates: Certificates, start_redis: Callable[..., RedisServer]) -> str:
    """Address of the server's TLS port, without options."""
    port = find_free_port()
    start_redis(extra_args=tuple(certificates.server_arguments(port)))
    return f"rediss://127.0.0.1:{port}"


@pytest.fixture
def stack(
    tmp_path: Path, tls_url: str, certificates: Certificates, own_redis: RedisServer
) -> Iterator[Stack]:
    env = {"PYNOMALY_REDIS__URL": f"{tls_url}?ssl_ca_certs={certificates.authority}"}
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


def test_events_are_kept_and_read(stack: Stack) -> None:
    async def scenario() -> None:
        producer = stack.platform.event_producer()
        await producer.start()
        assert await producer.send([Record(topic="job_events", key=b"job", value=b"{}")]) == [None]
        await producer.stop()
        reader = stack.platform.event_reader()
        [stored] = await reader.read("job_events", since=None, until=None, max_records=10)
        assert stored.value == b"{}"

    asyncio.run(scenario())


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

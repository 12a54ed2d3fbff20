"""Our transport as operators run it: Sentinel and a failover, TLS, an ACL user, purge, KEDA's list length."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import ROOT, Programs
from support.transport import OUR_CONSUMER, OURS, SENTINEL, SEP, Fleet
from support.transport_servers import MASTER, make_certificates, start_sentinel
from support.waiting import wait_until

StartRedis = Callable[..., RedisServer]


@pytest.fixture
def fleet(own_redis: RedisServer, programs: Programs) -> Iterator[Fleet]:
    fleet = Fleet(own_redis, programs)
    yield fleet
    fleet.close()


def test_tasks_survive_a_failover_of_sentinel(
    start_redis: StartRedis, programs: Programs, tmp_path: Path
) -> None:
    master, effects = start_redis(), start_redis()
    replica = start_redis(extra_args=["--replicaof", "127.0.0.1", str(master.port)])
    sentinel = start_sentinel(programs, tmp_path, master)
    fleet = Fleet(master, programs, effects=effects, broker_url=sentinel.url, options={"master_name": MASTER})
    workers = [fleet.worker(SENTINEL, pool=pool, env=OUR_CONSUMER) for pool in ("prefork", "threads")]
    fleet.submit(1, 2, transport=SENTINEL, gate="gate")
    fleet.wait_for_start(1)
    fleet.wait_for_start(2)
    fleet.submit(*range(3, 23), transport=SENTINEL, lasts_s=0.1)
    # What is not on the replica yet is lost in any failover.
    assert fleet.broker.wait(1, 5_000) == 1

    master.kill()
    wait_until(lambda: sentinel.master_port() == replica.port, 30, "the replica to be master")
    fleet.broker = replica.client(1)
    wait_until(lambda: fleet.broker.role()[0] == b"master", 10, "the replica to know it")
    fleet.submit(*range(23, 33), transport=SENTINEL)
    fleet.effects.rpush("gate", 1, 2)
    fleet.wait_for_ends(32)
    wait_until(fleet.is_empty, 20, "all to be settled")

    assert {number: fleet.started()[number] for number in (1, 2)} == {1: 1, 2: 1}
    assert all(worker.is_running() for worker in workers)
    fleet.close()


def test_next_url_after_a_failure_keeps_our_transport(fleet: Fleet) -> None:
    nobody = find_free_port()
    fleet.broker_url = f"redis://127.0.0.1:{nobody}/1;{fleet.server.url}/1"
    with fleet.connection() as connection:
        connection.ensure_connection(max_retries=3, interval_start=0, interval_step=0)

        assert type(connection.transport).__module__ == "pynomaly_tasks.transport"


def test_tls_is_spoken_and_the_certificate_checked(
    start_redis: StartRedis, programs: Programs, tmp_path: Path
) -> None:
    certificates, port = make_certificates(tmp_path), find_free_port()
    server = start_redis(extra_args=certificates.server_arguments(port))
    checked = f"rediss://127.0.0.1:{port}/1?ssl_cert_reqs=required"
    fleet = Fleet(server, programs, broker_url=f"{checked}&ssl_ca_certs={certificates.authority}")
    worker = fleet.worker()

    fleet.submit(*range(10))
    fleet.wait_for_ends(10)
    wait_until(lambda: fleet.n_unacked() == 0, 5, "all to be settled")
    fleet.broker_url = checked
    with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        fleet.submit(11)

    assert worker.is_running()
    fleet.close()


def acl_of_the_documentation() -> list[str]:
    """What docs/transport.md tells to give the user."""
    [line] = [
        line for line in (ROOT / "docs/transport.md").read_text("utf-8").splitlines()
        if line.startswith("ACL SETUSER")
    ]  # fmt: skip
    return line.split()


def test_acl_user_of_the_documentation_may_do_all_that_workers_and_publishers_do(
    own_redis: RedisServer, programs: Programs
) -> None:
    with own_redis.client() as admin:
        admin.execute_command(*acl_of_the_documentation())
    url = own_redis.url.replace("//", "//celery:secret@")
    fleet = Fleet(own_redis, programs, broker_url=f"{url}/1", visibility_s=2.0)
    victim = fleet.worker(slots=1)
    fleet.submit(1, gate="gate")
    fleet.wait_for_start(1)
    victim.kill()  # so that something has to be given back

    worker = fleet.worker(OURS, "-E", "-Q", "celery,reports", is_social=True)
    fleet.submit(*range(2, 12), priority=3)
    fleet.submit(*range(12, 22), queue="reports")
    fleet.broker.lpush("celery", b"garbage")
    fleet.effects.rpush("gate", 1)
    fleet.wait_for_ends(21)
    with Celery(set_as_current=False, broker=fleet.broker_url) as app:
        app.conf.broker_transport = OURS
        assert app.control.ping(timeout=2) != []
        app.control.revoke("nobody")
        with fleet.connection() as connection, connection.Producer() as producer, producer.batch(10):
            for _ in range(10):
                producer.publish("x", routing_key="celery_spare")
        assert app.control.purge(connection=connection) == 0
    wait_until(lambda: fleet.n_unacked() == 0 and fleet.dead(), 10, "all to be settled")
    worker.signal_leader(signal.SIGTERM)
    wait_until(lambda: not worker.is_running(), 20, "the worker to end")

    with own_redis.client() as admin:
        assert [(entry["reason"], entry["object"]) for entry in admin.acl_log()] == []
    with (
        redis.Redis(port=own_redis.port, username="celery", password="secret", db=1) as user,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        user.flushall()
    fleet.close()


def test_celery_purge_empties_the_queue_and_leaves_what_runs(fleet: Fleet, programs: Programs) -> None:
    fleet.worker(slots=1, env={"TRANSPORT_PREFETCH": "1"})
    fleet.submit(1, gate="gate")
    fleet.wait_for_start(1)
    fleet.submit(*range(2, 10))
    fleet.submit(10, priority=6)
    wait_until(lambda: fleet.n_unacked() == 1, 5, "one to be held")

    env = {**fleet.env, "TRANSPORT": OURS, "TRANSPORT_BROKER": fleet.broker_url}
    purge = programs.python("-m", "celery", "-A", "support.transport_app", "purge", "-f", env=env)
    purge.wait_for_output("Purged 9 messages")
    fleet.effects.rpush("gate", 1)
    fleet.wait_for_ends(1)
    wait_until(lambda: fleet.n_unacked() == 0, 5, "the first to be acknowledged")

    assert fleet.ended() == {1: 1}
    assert fleet.n_waiting() == 0
    assert fleet.broker.exists(f"celery{SEP}6") == 0


def test_length_of_the_list_that_keda_reads_is_what_waits(fleet: Fleet) -> None:
    fleet.submit(*range(12), gate="gate")
    before = fleet.broker.llen("celery")
    fleet.worker(slots=1)
    wait_until(lambda: fleet.n_unacked() == 4, 10, "the worker to take its prefetch")
    while_running = fleet.broker.llen("celery")
    fleet.effects.rpush("gate", *range(12))
    fleet.wait_for_ends(12)

    assert (before, while_running, fleet.broker.llen("celery")) == (12, 8, 0)

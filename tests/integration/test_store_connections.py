"""What a process does with its connections to PostgreSQL that lay in the pool."""

from __future__ import annotations

import time
from contextlib import suppress

import psycopg

from pynomaly_tasks.errors import StoreUnavailable
from pynomaly_tasks.store.store import Store
from support.stores import add
from support.waiting import wait_until


def _end_connections(url: str) -> None:
    """What a restart of the server does to them."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        ended = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert ended is not None
    assert ended[0] > 0


def test_connection_that_ended_while_it_rested_is_replaced_unseen(postgres_url: str) -> None:
    store = Store(postgres_url)
    store.migrate()
    job = add(store)
    _end_connections(postgres_url)
    ended_at_s = time.monotonic()

    wait_until(lambda: time.monotonic() > ended_at_s + 1.1, 5, "the connections to rest")
    found = store.find_job(job.id)

    assert found == job
    store.close()


def test_connection_that_ended_a_moment_ago_costs_one_error_at_most(postgres_url: str) -> None:
    store = Store(postgres_url)
    store.migrate()
    job = add(store)
    store.find_job(job.id)
    _end_connections(postgres_url)

    with suppress(StoreUnavailable):  # unless this machine was so slow that the connection rested
        store.find_job(job.id)

    assert store.find_job(job.id) == job
    store.close()

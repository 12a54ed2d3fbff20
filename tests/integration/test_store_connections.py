"""What a process does with its connections to PostgreSQL that lay in the pool."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest
from sqlalchemy import event

from pynomaly_tasks.core.job import Progress
from pynomaly_tasks.errors import StoreUnavailable
from pynomaly_tasks.store.store import Store
from support.stores import LEASE_S, add, start
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


_HOLDER = "relay-1"
_SINGLE_STATEMENTS: dict[str, tuple[str, Callable[[Store, str], object]]] = {
    "taking the relay's lease": ("leases", lambda store, _: store.take_relay_lease(_HOLDER, LEASE_S)),
    "marking events as sent": (
        "outbox",
        lambda store, _: store.mark_sent([entry.number for entry in store.list_unsent(10)]),
    ),
    "renewing a job's lease": ("jobs", lambda store, job_id: store.renew("w1", [job_id], LEASE_S)),
    "keeping progress": (
        "jobs",
        lambda store, job_id: store.record_progress(job_id, 1, Progress(current=1, total=2, status="half")),
    ),
}


@pytest.mark.parametrize("what", _SINGLE_STATEMENTS)
def test_process_that_is_paused_while_it_writes_keeps_no_row_from_others(
    postgres_url: str, what: str
) -> None:
    store = Store(postgres_url)
    store.migrate()
    job = start(store, add(store))
    store.take_relay_lease(_HOLDER, LEASE_S)
    table, write = _SINGLE_STATEMENTS[what]
    found: list[tuple[int, int]] = []

    def look(*_: object) -> None:
        # A process paused now is between its statement and whatever it would do next.
        with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
            free = connection.execute(f"SELECT 1 FROM {table} FOR UPDATE SKIP LOCKED").fetchall()
            rows = connection.execute(f"SELECT 1 FROM {table}").fetchall()
            found.append((len(free), len(rows)))

    event.listen(store._db.engine, "after_cursor_execute", look)
    write(store, job.id)
    event.remove(store._db.engine, "after_cursor_execute", look)

    assert found
    assert all(n_free == n_rows > 0 for n_free, n_rows in found)
    store.close()

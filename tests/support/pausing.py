"""Stopping a program that writes to a store which others use meanwhile."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from sqlalchemy import make_url

from support.processes import Program


def pause_between_writes(program: Program, store_url: str) -> None:
    """`Program.pause`, at a moment at which the program does not hold the write lock of an SQLite file.

    SQLite has one for the whole file: were it stopped in the middle of a write, nobody could write until it
    goes on. A PostgreSQL is left as it is.
    """
    program.pause()
    while _is_locked(store_url):
        program.resume()
        program.pause()


def _is_locked(store_url: str) -> bool:
    url = make_url(store_url)
    if url.get_backend_name() != "sqlite":
        return False
    with closing(sqlite3.connect(str(url.database), timeout=2.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False

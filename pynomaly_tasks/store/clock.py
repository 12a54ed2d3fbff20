"""The database server's clock, and how instants are kept: seconds since 1970, UTC, as a double.

Leases, delays and deadlines are compared on the server, so a worker whose clock is wrong cannot
take a job that is alive.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Dialect, Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeDecorator


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime in Python, seconds since 1970 in SQL."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: datetime | float | None, dialect: Dialect) -> float | None:
        """Seconds; a plain number passes, so that SQL can add seconds to an instant."""
        return value.timestamp() if isinstance(value, datetime) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """An aware datetime, to the microsecond."""
        return None if value is None else datetime.fromtimestamp(float(value), UTC)


class server_now(GenericFunction[datetime]):  # noqa: N801  reads as the SQL function it is
    """Now, by the database server's clock, to the millisecond or better."""

    type = Instant()
    inherit_cache = True


@compiles(server_now, "sqlite")
def _sqlite_now(element: server_now, compiler: SQLCompiler, **kw: Any) -> str:
    # unixepoch('subsec') needs SQLite 3.42; Debian 12 has 3.40.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(server_now, "postgresql")
def _postgresql_now(element: server_now, compiler: SQLCompiler, **kw: Any) -> str:
    # now() stands still within a transaction; a lease granted at its end would be too short.
    return "cast(extract(epoch from clock_timestamp()) as double precision)"

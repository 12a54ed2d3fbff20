"""The tables. A change here needs a migration in `migrations/versions`."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from pynomaly_tasks.store.clock import Instant

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers only a column declared INTEGER PRIMARY KEY by itself.
_Serial = BigInteger().with_variant(Integer(), "sqlite")
# JSON, not JSONB, on PostgreSQL too: what was sent is kept as it was sent, NUL characters included.
_Json = JSON(none_as_null=True)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", String(255), nullable=False, unique=True),
    Column("kind", String(100), nullable=False),
    Column("queue", String(100), nullable=False),
    Column("state", String(16), nullable=False),
    Column("request", _Json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("n_failed", Integer, nullable=False),
    Column("n_lost", Integer, nullable=False),
    Column("max_retries", Integer, nullable=False),
    Column("backoff_s", Double, nullable=False),
    Column("backoff_max_s", Double, nullable=False),
    Column("jitter", Double, nullable=False),
    Column("time_limit_s", Double),
    Column("run_at", Instant, nullable=False),
    Column("deadline_at", Instant),
    Column("idempotency_key", String(255), unique=True),
    Column("ordering_key", String(255)),
    Column("tags", JSON().with_variant(JSONB(), "postgresql"), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("replay_of", String(255)),
    Column("parent_id", String(255)),
    Column("root_id", String(255)),
    Column("envelope", _Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("published_at", Instant),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("lease_until_at", Instant),
    Column("worker", String(255)),
    Column("cancel_requested_at", Instant),
    Column("cancel_reason", Text, nullable=False),
    Column("progress_current", BigInteger),
    Column("progress_total", BigInteger),
    Column("progress_status", Text),
    Column("summary", _Json),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("dead_reason", String(32)),
    # Celery has still to learn of the end: what comes next in a chain waits for that.
    Column("report_due", Boolean, nullable=False),
    sqlite_autoincrement=True,
)
_is_open = text("state IN ('waiting', 'queued', 'running')")
# Each query of the engine's loops reads one small partial index, however long the history is.
Index(
    "ix_jobs_waiting",
    jobs.c.run_at,
    postgresql_where=text("state = 'waiting'"),
    sqlite_where=text("state = 'waiting'"),
)
Index(
    "ix_jobs_queued",
    jobs.c.published_at,
    postgresql_where=text("state = 'queued'"),
    sqlite_where=text("state = 'queued'"),
)
Index(
    "ix_jobs_running",
    jobs.c.lease_until_at,
    postgresql_where=text("state = 'running'"),
    sqlite_where=text("state = 'running'"),
)
Index(
    "ix_jobs_deadline",
    jobs.c.deadline_at,
    postgresql_where=text("state IN ('waiting', 'queued') AND deadline_at IS NOT NULL"),
    sqlite_where=text("state IN ('waiting', 'queued') AND deadline_at IS NOT NULL"),
)
Index("ix_jobs_ordering", jobs.c.ordering_key, jobs.c.seq, postgresql_where=_is_open, sqlite_where=_is_open)
Index("ix_jobs_state_seq", jobs.c.state, jobs.c.seq)
Index("ix_jobs_finished", jobs.c.finished_at)
Index(
    "ix_jobs_replay_of",
    jobs.c.replay_of,
    postgresql_where=text("replay_of IS NOT NULL"),
    sqlite_where=text("replay_of IS NOT NULL"),
)
Index(
    "ix_jobs_report_due",
    jobs.c.finished_at,
    postgresql_where=text("report_due"),
    sqlite_where=text("report_due"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", String(255), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("worker", String(255), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("finished_at", Instant),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("traceback", Text),
)

results = Table(
    "results",
    metadata,
    Column("job_id", String(255), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("summary", _Json, nullable=False),
    Column("detail", _Json, nullable=False),
    Column("artifacts", _Json, nullable=False),
    Column("created_at", Instant, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("topic", String(100), nullable=False),
    Column("key", String(255), nullable=False),
    Column("type", String(100), nullable=False),
    Column("payload", _Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("event_id", String(64), nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("traceparent", String(64)),
    Column("sent_at", Instant),
    # Tries to publish it that failed for a reason of its own: it holds back its key until `retry_at`.
    Column("n_attempts", Integer, nullable=False, server_default=text("0")),
    Column("retry_at", Instant),
    Column("last_error", Text),
    sqlite_autoincrement=True,
)
Index(
    "ix_outbox_unsent",
    outbox.c.id,
    postgresql_where=text("sent_at IS NULL"),
    sqlite_where=text("sent_at IS NULL"),
)
Index(
    "ix_outbox_sent",
    outbox.c.sent_at,
    postgresql_where=text("sent_at IS NOT NULL"),
    sqlite_where=text("sent_at IS NOT NULL"),
)

_is_held_back = text("sent_at IS NULL AND retry_at IS NOT NULL")
Index(
    "ix_outbox_held_back",
    outbox.c.topic,
    outbox.c.key,
    postgresql_where=_is_held_back,
    sqlite_where=_is_held_back,
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("holder", String(255), nullable=False),
    Column("until_at", Instant, nullable=False),
    # Why the holder cannot do its work just now; people look it up here.
    Column("last_error", Text),
)

inbox = Table(
    "inbox",
    metadata,
    Column("consumer_group", String(100), primary_key=True),
    Column("event_id", String(255), primary_key=True),
    Column("applied_at", Instant, nullable=False, index=True),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("event_id", String(255), nullable=False, unique=True),
    Column("type", String(100), nullable=False),
    Column("actor", String(255), nullable=False),
    Column("subject", String(255), nullable=False, index=True),
    Column("occurred_at", Instant, nullable=False, index=True),
    Column("data", _Json, nullable=False),
    sqlite_autoincrement=True,
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("job_id", String(255), ForeignKey("jobs.id", ondelete="CASCADE"), index=True),
    Column("kind", String(255)),
    Column("queue", String(100), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("message", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("n_attempts", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("replayed_as", String(255)),
    Column("discarded_at", Instant),
    sqlite_autoincrement=True,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("dedup_key", String(255), primary_key=True),
    Column("channel", String(100), primary_key=True),
    Column("job_id", String(255), nullable=False),
    Column("n_attempts", Integer, nullable=False),
    Column("last_error", Text),
    Column("first_attempt_at", Instant, nullable=False),
    Column("delivered_at", Instant),
)

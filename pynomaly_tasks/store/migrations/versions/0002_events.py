"""What the outbox relay and the consumers of events keep."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SENT: dict[str, Any] = {
    "postgresql_where": sa.text("sent_at IS NOT NULL"),
    "sqlite_where": sa.text("sent_at IS NOT NULL"),
}
_UNSENT: dict[str, Any] = {
    "postgresql_where": sa.text("sent_at IS NULL"),
    "sqlite_where": sa.text("sent_at IS NULL"),
}
_HELD_BACK: dict[str, Any] = {
    "postgresql_where": sa.text("sent_at IS NULL AND retry_at IS NOT NULL"),
    "sqlite_where": sa.text("sent_at IS NULL AND retry_at IS NOT NULL"),
}


def upgrade() -> None:
    """Add them.

    Events that were written before are not of the catalogue, so that no consumer could read them: they count
    as published, and go when those do.
    """
    with op.batch_alter_table("outbox") as outbox:
        outbox.add_column(sa.Column("event_id", sa.String(64), nullable=True))
        outbox.add_column(sa.Column("version", sa.Integer(), nullable=False, server_default=sa.text("1")))
        outbox.add_column(sa.Column("traceparent", sa.String(64), nullable=True))
        outbox.add_column(sa.Column("sent_at", sa.Double(), nullable=True))
        outbox.add_column(sa.Column("n_attempts", sa.Integer(), nullable=False, server_default=sa.text("0")))
        outbox.add_column(sa.Column("retry_at", sa.Double(), nullable=True))
        outbox.add_column(sa.Column("last_error", sa.Text(), nullable=True))
    random_id = (
        "lower(hex(randomblob(16)))" if op.get_bind().dialect.name == "sqlite" else "gen_random_uuid()::text"
    )
    op.execute(f"UPDATE outbox SET event_id = {random_id}, sent_at = created_at")
    with op.batch_alter_table("outbox") as outbox:
        outbox.alter_column("event_id", existing_type=sa.String(64), nullable=False)
    op.create_index("ix_outbox_unsent", "outbox", ["id"], **_UNSENT)
    op.create_index("ix_outbox_sent", "outbox", ["sent_at"], **_SENT)
    op.create_index("ix_outbox_held_back", "outbox", ["topic", "key"], **_HELD_BACK)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("until_at", sa.Double(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "inbox",
        sa.Column("consumer_group", sa.String(100), nullable=False),
        sa.Column("event_id", sa.String(255), nullable=False),
        sa.Column("applied_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("consumer_group", "event_id", name=op.f("pk_inbox")),
    )
    op.create_index(op.f("ix_inbox_applied_at"), "inbox", ["applied_at"])
    op.create_table(
        "audit_log",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("event_id", sa.String(255), nullable=False),
        sa.Column("type", sa.String(100), nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("occurred_at", sa.Double(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        sa.UniqueConstraint("event_id", name=op.f("uq_audit_log_event_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_log_subject"), "audit_log", ["subject"])
    op.create_index(op.f("ix_audit_log_occurred_at"), "audit_log", ["occurred_at"])


def downgrade() -> None:
    """Drop them."""
    for table in ("audit_log", "inbox", "leases"):
        op.drop_table(table)
    op.drop_index("ix_outbox_held_back", "outbox")
    op.drop_index("ix_outbox_sent", "outbox")
    op.drop_index("ix_outbox_unsent", "outbox")
    with op.batch_alter_table("outbox") as outbox:
        for column in (
            "event_id",
            "version",
            "traceparent",
            "sent_at",
            "n_attempts",
            "retry_at",
            "last_error",
        ):
            outbox.drop_column(column)

"""``pynomaly audit``: who did what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.cli.event_groups import Since
from pynomaly_tasks.cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from pynomaly_tasks.store.audit import AuditEntry


@click.group()
def audit() -> None:
    """Look at the audit log, which the consumer group `audit` keeps."""


@audit.command("list")
@click.option("--type", "type_pattern", metavar="TYPE", help="Such as audit.job.replayed or audit.job.*.")
@click.option("--actor", help="Who did it.")
@click.option("--subject", help="What it was done to, such as a job's id.")
@click.option("--since", type=Since(), help="1h, 7d, or an instant.")
@click.option("--until", type=Since(), help="1h, 7d, or an instant.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="Whole entries as JSON.")
def list_(
    type_pattern: str | None,
    actor: str | None,
    subject: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List entries, the last recorded first."""
    from pynomaly_tasks.store.audit import AuditFilter

    found = connect().store.audit.list(
        AuditFilter(type_pattern=type_pattern, actor=actor, subject=subject, since=since, until=until),
        limit=limit,
    )
    if as_json:
        print_json([{"number": number, **_plain(entry)} for number, entry in found])
        return
    print_table(
        ("number", "at", "actor", "type", "subject", "details"),
        (
            (
                str(number),
                f"{entry.occurred_at:%Y-%m-%d %H:%M:%S}",
                entry.actor,
                entry.type,
                entry.subject,
                orjson.dumps(_details(entry.data)).decode(),
            )
            for number, entry in found
        ),
    )


def _plain(entry: AuditEntry) -> dict[str, Any]:
    return {field.name: getattr(entry, field.name) for field in fields(entry)}


def _details(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "actor" and value not in (None, "")}

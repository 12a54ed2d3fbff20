"""``pynomaly events``: the commands about the log itself."""

from __future__ import annotations

import asyncio

import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.errors import Conflict


@click.command("forget-group")
@click.argument("group")
def forget_group(group: str) -> None:
    """Forget a consumer group that is gone for good, so that no more events are kept for it.

    Only where events are on Redis Streams: they are kept until every group has applied them. A group
    of that name that comes again begins with the oldest event there is.
    """
    from pynomaly_tasks.events.redis_streams.log import RedisEventLog

    log = connect().event_log
    if not isinstance(log, RedisEventLog):
        raise Conflict(
            "events.backend is kafka, which keeps events for their time alone and needs no such thing"
        )
    asyncio.run(log.forget_group(group))
    click.echo(f"forgot {group}")

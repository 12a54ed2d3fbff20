"""``pynomaly events``: the commands about the log itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.cli.terminal import print_table
from pynomaly_tasks.errors import Conflict

if TYPE_CHECKING:
    from pynomaly_tasks.events.redis_streams.log import RedisEventLog


@click.command()
def groups() -> None:
    """Show every consumer group that the log knows, also one that no longer runs.

    Only where events are on Redis Streams: they are kept until every group has applied them.
    """
    print_table(("group", "topics", "lag"), asyncio.run(_groups(_redis_log())))


async def _groups(log: RedisEventLog) -> list[tuple[str, ...]]:
    reader = log.reader()
    return [
        (group, " ".join(topics), str(sum((await reader.lag(group, topics)).values())))
        for group, topics in sorted((await log.groups()).items())
    ]


@click.command("forget-group")
@click.argument("group")
def forget_group(group: str) -> None:
    """Forget a consumer group that is gone for good, so that no more events are kept for it.

    Only where events are on Redis Streams: they are kept until every group has applied them. A group
    of that name that comes again begins with the oldest event there is.
    """
    asyncio.run(_redis_log().forget_group(group))
    click.echo(f"forgot {group}")


def _redis_log() -> RedisEventLog:
    from pynomaly_tasks.events.redis_streams.log import RedisEventLog

    log = connect().event_log
    if not isinstance(log, RedisEventLog):
        raise Conflict(
            "events.backend is kafka, which keeps events for their time alone; its own "
            "kafka-consumer-groups.sh lists and deletes groups"
        )
    return log

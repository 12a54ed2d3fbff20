"""``pynomaly kafka``: the topics of events in Apache Kafka."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.cli.terminal import print_table

if TYPE_CHECKING:
    from pynomaly_tasks.events.kafka.admin import Comparison, KafkaAdmin

#: Kafka is not as the file says, and was left so.
DIFFERS = 3


@click.group()
def kafka() -> None:
    """Apache Kafka, which carries the events in production."""


@kafka.command("create-topics")
@click.option("--dry-run", is_flag=True, help="Only say what is missing or differs.")
@click.option(
    "--add-partitions-moving-keys", is_flag=True,
    help="Also give topics the partitions that they lack. Keys move to other partitions: once, events of "
    "one key may be applied out of order, unless everything was consumed and nothing is published meanwhile.",
)  # fmt: skip
@click.pass_context
def create_topics(context: click.Context, *, dry_run: bool, add_partitions_moving_keys: bool) -> None:
    """Create the topics that are missing, as config/kafka_topics.yaml (kafka.topics_file) describes them.

    Topics that exist are never changed: what differs is printed. Running it again does no harm.
    Exit codes: 0 all is as described, 1 refused or no answer, 3 something differs, or is missing
    with --dry-run.
    """
    from pynomaly_tasks.bootstrap import kafka_connection
    from pynomaly_tasks.events.kafka.admin import KafkaAdmin
    from pynomaly_tasks.events.topics import read_topics

    settings = connect().settings.kafka
    topics = read_topics(settings.topics_file)
    admin = KafkaAdmin(kafka_connection(settings), timeout_s=settings.timeout_s)
    comparison = asyncio.run(admin.compare(topics.values()))
    if dry_run:
        for topic in comparison.missing:
            click.echo(f"missing: {topic.name} ({topic.n_partitions} partitions)")
        _print_differences(comparison)
        context.exit(DIFFERS if comparison.missing or comparison.differences else 0)
    for name in asyncio.run(admin.create(comparison.missing)):
        click.echo(f"created: {name} ({topics[name].n_partitions} partitions)")
    if add_partitions_moving_keys and _add_partitions(admin, comparison):
        comparison = asyncio.run(admin.compare(topics.values()))
    _print_differences(comparison)
    if comparison.differences:
        context.exit(DIFFERS)
    click.echo(f"{len(topics)} topics are as described")


def _add_partitions(admin: KafkaAdmin, comparison: Comparison) -> bool:
    """Whether a topic was given partitions."""
    fewer = [
        (one.topic, int(one.wanted))
        for one in comparison.differences
        if one.what == "partitions" and int(one.wanted) > int(one.found)
    ]
    for topic, n_partitions in fewer:
        asyncio.run(admin.add_partitions(topic, n_partitions))
        click.echo(f"partitions added: {topic} ({n_partitions} now)")
    return bool(fewer)


def _print_differences(comparison: Comparison) -> None:
    if comparison.differences:
        rows = [(one.topic, one.what, one.wanted, one.found) for one in comparison.differences]
        print_table(("topic", "differs in", "described", "is"), rows)

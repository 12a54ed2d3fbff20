"""``pynomaly events list``, ``schema`` and ``asyncapi``: what events there are, for people and programs."""

from __future__ import annotations

from typing import IO

import orjson
import rich_click as click
import yaml

from pynomaly_tasks.cli.event_groups import imported
from pynomaly_tasks.cli.terminal import print_json, print_table
from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.settings import Settings, current_settings


@click.command("list")
@imported
def list_() -> None:
    """List the types of events: ours, and those of --import."""
    from pynomaly_tasks.events.catalog import CATALOG

    rows = [(each.type, str(each.version), each.topic, each.summary) for each in CATALOG]
    print_table(("type", "version", "topic", "says"), rows)


@click.command()
@click.argument("type", metavar="TYPE")
@imported
def schema(type: str) -> None:  # noqa: A002 (the name in CloudEvents)
    """Print the JSON Schema of the data of a TYPE, such as job.completed."""
    from pynomaly_tasks.events.catalog import CATALOG
    from pynomaly_tasks.events.schemas import json_schema

    event_type = CATALOG.find(type)
    if event_type is None:
        raise NotFound(
            f"no type of events is called {type!r}; `pynomaly events list` shows them, and a type of your own is "
            "found with --import MODULE"
        )
    print_json(json_schema(event_type))


@click.command()
@imported
@click.option("--json", "as_json", is_flag=True, help="JSON in place of YAML.")
@click.option("--output", "-o", type=click.File("wb", lazy=True), default="-", help="Unset: standard output.")
def asyncapi(as_json: bool, output: IO[bytes]) -> None:
    """Write the AsyncAPI 3.0 document of all types, for other systems and their generators of code."""
    from importlib.metadata import version

    from pynomaly_tasks.events.asyncapi import asyncapi_document
    from pynomaly_tasks.events.topics import read_topics

    settings = current_settings()
    document = asyncapi_document(
        version=version("pynomaly-tasks"),
        topics=read_topics(settings.kafka.topics_file),
        servers=_servers(settings),
    )
    if as_json:
        output.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    else:
        output.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120).encode())


def _servers(settings: Settings) -> dict[str, dict[str, str]]:
    if settings.events.backend != "kafka":
        return {}
    protocol = "kafka" if settings.kafka.security_protocol.endswith("PLAINTEXT") else "kafka-secure"
    hosts = settings.kafka.bootstrap_servers.split(",")
    return {
        f"kafka_{number}": {"host": host.strip(), "protocol": protocol}
        for number, host in enumerate(hosts, 1)
    }

"""The AsyncAPI document holds to the rules of AsyncAPI 3.0 for every object that it has.

The rules are written down here as a strict JSON Schema of the objects that are used, since the
specification's own is a document of 400 KB.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft7Validator, Draft202012Validator

from pynomaly_tasks.cli import pynomaly
from pynomaly_tasks.events.asyncapi import asyncapi_document
from pynomaly_tasks.events.catalog import CATALOG
from pynomaly_tasks.events.topics import read_topics

TEXT = {"type": "string", "minLength": 1}
REFERENCE = {
    "type": "object", "properties": {"$ref": {"type": "string", "pattern": "^#/"}}, "required": ["$ref"],
    "additionalProperties": False,
}  # fmt: skip


def record(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def named(values: dict[str, Any]) -> dict[str, Any]:
    """Objects by name, as the specification spells names."""
    return {
        "type": "object",
        "patternProperties": {r"^[\w\d.-]+$": values},
        "additionalProperties": False,
        "minProperties": 1,
    }


def kafka(**fields: Any) -> dict[str, Any]:
    """Kafka's binding of an object."""
    return record({"kafka": record({"bindingVersion": {"const": "0.5.0"}, **fields})})


COUNT = {"type": "integer", "minimum": 1}
RULES = record(
    {
        "asyncapi": {"const": "3.0.0"},
        "info": record({"title": TEXT, "version": TEXT, "description": TEXT}),
        "defaultContentType": {"const": "application/json"},
        "channels": named(
            record(
                {
                    "address": TEXT,
                    "title": TEXT,
                    "messages": named(REFERENCE),
                    "bindings": kafka(topic=TEXT, partitions=COUNT, replicas=COUNT),
                }
            )
        ),
        "operations": named(
            record(
                {
                    "action": {"enum": ["send", "receive"]},
                    "channel": REFERENCE,
                    "summary": TEXT,
                    "messages": {"type": "array", "items": REFERENCE, "minItems": 1},
                }
            )
        ),
        "components": record(
            {
                "schemas": named({"type": "object"}),
                "messages": named(
                    record(
                        {
                            "name": TEXT,
                            "title": TEXT,
                            "summary": TEXT,
                            "contentType": {"const": "application/json"},
                            "headers": record({"allOf": {"type": "array", "minItems": 2}}),
                            "payload": REFERENCE,
                            "bindings": kafka(key=record({"type": {"const": "string"}, "description": TEXT})),
                        }
                    )
                ),
            }
        ),
    },
    {"servers": named(record({"host": TEXT, "protocol": {"enum": ["kafka", "kafka-secure"]}}))},
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """As other systems get it."""
    servers = {"kafka_1": {"host": "kafka.example:9093", "protocol": "kafka-secure"}}
    made = asyncapi_document(version="1.2.3", topics=read_topics(), servers=servers)
    read: dict[str, Any] = json.loads(json.dumps(made))
    return read


def references(value: Any) -> list[str]:
    """All that the value refers to."""
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [each for inner in value.values() for each in references(inner)]
    return [each for inner in value for each in references(inner)] if isinstance(value, list) else []


def found(document: dict[str, Any], reference: str) -> Any:
    """What a reference leads to; a KeyError where that is nothing."""
    value: Any = document
    for step in reference.removeprefix("#/").split("/"):
        value = value[step]
    return value


def test_every_object_has_the_fields_that_asyncapi_asks_for_and_no_others(document: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(RULES)

    problems = [
        f"{list(e.absolute_path)}: {e.message}" for e in Draft202012Validator(RULES).iter_errors(document)
    ]

    assert problems == []


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert all(found(document, reference) for reference in references(document))


def test_operations_name_messages_of_their_own_channel(document: dict[str, Any]) -> None:
    for name, operation in document["operations"].items():
        channel = operation["channel"]["$ref"]
        assert all(each["$ref"].startswith(f"{channel}/messages/") for each in operation["messages"]), name
    assert {operation["action"] for operation in document["operations"].values()} == {"send", "receive"}


def test_every_type_is_a_message_of_its_topic(document: dict[str, Any]) -> None:
    told = {
        (found(document, each["$ref"])["name"], channel["address"])
        for channel in document["channels"].values()
        for each in channel["messages"].values()
    }

    assert told == {(each.type, each.topic) for each in CATALOG}


def test_schemas_are_those_that_asyncapi_takes_by_default(document: dict[str, Any]) -> None:
    # Without a schemaFormat they are a superset of draft 7, which must not refer to a $defs of their own.
    for name, schema in document["components"]["schemas"].items():
        Draft7Validator.check_schema(schema)
        assert "$defs" not in schema, name


def test_headers_of_a_message_name_its_type_and_schema(document: dict[str, Any]) -> None:
    common, its_own = document["components"]["messages"]["job_completed"]["headers"]["allOf"]

    assert found(document, common["$ref"])["required"][:4] == [
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
    ]
    assert its_own["properties"]["ce_dataschema"]["const"] == "urn:pynomaly:event:job.completed:1"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_command_writes_the_document_as_yaml_or_json(options: list[str]) -> None:
    answer = CliRunner().invoke(pynomaly, ["events", "asyncapi", *options])

    assert answer.exit_code == 0, answer.output
    written = json.loads(answer.output) if options else yaml.safe_load(answer.output)
    assert written["asyncapi"] == "3.0.0"
    assert set(written["channels"]) == {each.topic for each in CATALOG}


def test_command_lists_the_types() -> None:
    answer = CliRunner().invoke(pynomaly, ["events", "list"])

    lines = [line.split("\t") for line in answer.output.splitlines()]
    assert lines[0] == ["type", "version", "topic", "says"]
    assert [line[0] for line in lines[1:]] == [each.type for each in CATALOG]


def test_command_prints_the_schema_of_a_type() -> None:
    answer = CliRunner().invoke(pynomaly, ["events", "schema", "job.completed"])

    assert json.loads(answer.output)["$id"] == "urn:pynomaly:event:job.completed:1"


def test_command_says_of_an_unknown_type_where_the_known_are() -> None:
    answer = CliRunner().invoke(pynomaly, ["events", "schema", "job.exploded"])

    assert answer.exit_code == 1
    assert "`pynomaly events list` shows them" in answer.stderr

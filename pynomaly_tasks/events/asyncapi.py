"""The catalogue as an AsyncAPI 3.0 document, for people and code generators of other systems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pynomaly_tasks.events.catalog import CATALOG, Catalog, EventType
from pynomaly_tasks.events.schemas import shared_schemas
from pynomaly_tasks.events.topics import Topic

_BINDING = "0.5.0"  #: of AsyncAPI's Kafka bindings
_DESCRIPTION = """\
What happened to jobs, what they found and what people did, as CloudEvents 1.0 in Kafka's binary content mode.

An event is published at least once: one that comes again has the same `ce_id`, so keep the ids that were
applied. Events with one key come in order. Data may have fields that its schema does not name: leave them alone.
"""


def asyncapi_document(
    *,
    version: str,
    topics: Mapping[str, Topic],
    servers: Mapping[str, Mapping[str, Any]] | None = None,
    catalog: Catalog = CATALOG,
) -> dict[str, Any]:
    """The document as JSON; ``version`` is the platform's, ``servers`` are AsyncAPI's server objects by name."""
    types = list(catalog)
    names = sorted({each.topic for each in types})
    payloads, parts = shared_schemas(types, ref_template="#/components/schemas/{model}")
    parts |= {_name(each): payloads[each.type] for each in types}
    document: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {"title": "Pynomaly events", "version": version, "description": _DESCRIPTION},
        "defaultContentType": "application/json",
    }
    if servers:
        document["servers"] = {name: dict(server) for name, server in servers.items()}
    return document | {
        "channels": {name: _channel(name, types, topics.get(name)) for name in names},
        "operations": {
            f"{action}_{name}": _operation(action, name, types)
            for name in names
            for action in ("send", "receive")
        },
        "components": {
            "schemas": {"CloudEventHeaders": _headers()} | parts,
            "messages": {_name(each): _message(each) for each in types},
        },
    }


def _name(event_type: EventType) -> str:
    """Of its message here: generators of code make names of it, and dots are none."""
    return event_type.type.replace(".", "_")


def _channel(name: str, types: list[EventType], topic: Topic | None) -> dict[str, Any]:
    kafka: dict[str, Any] = {"topic": name, "bindingVersion": _BINDING}
    if topic is not None:
        kafka |= {"partitions": topic.n_partitions, "replicas": topic.replication_factor}
    return {
        "address": name,
        "title": name.replace("_", " ").capitalize(),
        "messages": {
            _name(each): {"$ref": f"#/components/messages/{_name(each)}"}
            for each in types
            if each.topic == name
        },
        "bindings": {"kafka": kafka},
    }


def _operation(action: str, name: str, types: list[EventType]) -> dict[str, Any]:
    summary = (
        "Published by the relay." if action == "send" else "Read by a consumer group, here or elsewhere."
    )
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": summary,
        "messages": [
            {"$ref": f"#/channels/{name}/messages/{_name(each)}"} for each in types if each.topic == name
        ],
    }


def _message(event_type: EventType) -> dict[str, Any]:
    its_own = {
        "type": "object",
        "properties": {
            "ce_type": {"type": "string", "const": event_type.type},
            "ce_dataschema": {"type": "string", "const": event_type.schema_id},
        },
    }
    return {
        "name": event_type.type,
        "title": event_type.type,
        "summary": event_type.summary,
        "contentType": "application/json",
        "headers": {"allOf": [{"$ref": "#/components/schemas/CloudEventHeaders"}, its_own]},
        "payload": {"$ref": f"#/components/schemas/{_name(event_type)}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": _KEYS.get(event_type.topic, _ANY_KEY)},
                "bindingVersion": _BINDING,
            }
        },
    }


_ANY_KEY = "What is to stay in order."
_KEYS = {
    "job_events": "The job's ordering key, or else its id.",
    "anomaly_events": "The job's ordering key, or else its id.",
    "audit_events": "What was acted on; of a job its ordering key, or else its id.",
}


def _headers() -> dict[str, Any]:
    """Attributes of a CloudEvent as Kafka's binding spells them; each header's value is UTF-8."""

    def text(description: str, **rules: Any) -> dict[str, Any]:
        return {"type": "string", "description": description, **rules}

    return {
        "type": "object",
        "description": "Attributes of CloudEvents 1.0.",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_dataschema", "content-type"],
        "properties": {
            "ce_specversion": text("Of CloudEvents.", const="1.0"),
            "ce_id": text("The same however often the event comes; unique with ce_source.", maxLength=200),
            "ce_source": text("The installation that says so.", maxLength=255),
            "ce_type": text("What happened."),
            "ce_subject": text("What it is about, such as the job's id."),
            "ce_time": text("When it happened, UTC.", format="date-time"),
            "ce_dataschema": text("Type and version of the data: urn:pynomaly:event:<type>:<version>."),
            "ce_partitionkey": text("The message's key again."),
            "ce_traceparent": text("W3C Trace Context of what caused it."),
            "content-type": text("Of the data.", const="application/json"),
        },
    }

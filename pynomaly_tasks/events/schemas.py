"""The JSON Schema of each type of events, and whether a newer one still fits what was published with an older."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from pynomaly_tasks.events.catalog import EventType

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: Says nothing about which data is valid.
_NOTES = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$comment"})


class _Plain(GenerateJsonSchema):
    """Without titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def json_schema(event_type: EventType) -> dict[str, Any]:
    """The schema of the data of one type, as a document of its own."""
    schema = event_type.adapter.json_schema(schema_generator=_Plain)
    schema.pop("title", None)
    return {"$schema": DIALECT, "$id": event_type.schema_id, "title": event_type.type, **schema}


def shared_schemas(
    event_types: Iterable[EventType], ref_template: str
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Schemas by type, and the parts that they share by name, which they refer to by the template."""
    mode: JsonSchemaMode = "validation"
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (each.type, mode, each.adapter) for each in event_types
    ]
    by_key, shared = TypeAdapter.json_schemas(inputs, ref_template=ref_template, schema_generator=_Plain)
    definitions: dict[str, Any] = shared.get("$defs", {})
    return {name: dict(schema) for (name, _), schema in by_key.items()}, definitions


def breaking_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What would break readers of the older schema, or keep readers of the newer one from older events.

    A new field that need not be there is the one change that does neither: what readers do not know they
    leave alone. Empty when that is all. Both are documents of `json_schema`.
    """
    return list(_changes(old, new, old, new, "the data"))


def _changes(
    old: Any, new: Any, old_root: Mapping[str, Any], new_root: Mapping[str, Any], where: str
) -> Iterator[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        if old != new:
            yield f"{where}: was {old!r}, is {new!r}"
        return
    old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
    yield from _changed_fields(old, new, where)
    for name in old_fields.keys() & new_fields.keys():
        yield from _changes(old_fields[name], new_fields[name], old_root, new_root, f"{where}.{name}")
    rules = (old.keys() | new.keys()) - _NOTES - {"properties", "required", "$defs", "$ref"}
    for rule in sorted(rules):
        before, after = old.get(rule), new.get(rule)
        if rule in ("items", "additionalProperties") and isinstance(before, Mapping):
            yield from _changes(before, after, old_root, new_root, f"{where} {rule}")
        elif rule in ("anyOf", "allOf", "oneOf") and before and after and len(before) == len(after):
            for one, other in zip(before, after, strict=True):
                yield from _changes(one, other, old_root, new_root, where)
        elif before != after:
            yield f"{where}: {rule} was {before!r}, is {after!r}"


def _changed_fields(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
    old_fields, new_fields = set(old.get("properties", ())), set(new.get("properties", ()))
    old_required, new_required = set(old.get("required", ())), set(new.get("required", ()))
    for name in sorted(old_fields - new_fields):
        yield f"{where}.{name}: is gone"
    for name in sorted(new_required - old_required):
        yield f"{where}.{name}: must be there now, and is missing in older events"
    for name in sorted((old_required - new_required) & new_fields):
        yield f"{where}.{name}: need not be there any more, and older readers ask for it"


def _resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    while isinstance(schema, Mapping) and "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        schema = root["$defs"][name]
    return schema

"""Schemas of events: each is valid and described, and none changes so that it breaks a reader."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field

from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.errors import InvalidInput
from pynomaly_tasks.events.catalog import CATALOG, Catalog, EventType, require_valid
from pynomaly_tasks.events.schemas import breaking_changes, json_schema

SCRIPT = Path(__file__).parents[3] / "scripts" / "generate_event_docs.py"
TYPES = {each.type: each for each in CATALOG}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the data."""

    name: str
    size: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(EventData):
    """Something to change."""

    type: ClassVar[str] = "sample.made"
    topic: ClassVar[str] = "job_events"

    label: Annotated[str, Field(max_length=10, description="A label.")]
    parts: tuple[Part, ...]
    note: str | None = None


SAMPLE = json_schema(EventType(Sample))


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The sample's schema after a change of its fields, required ones, or parts."""
    schema = copy.deepcopy(SAMPLE)
    change(schema)
    return schema


@pytest.mark.parametrize("name", sorted(TYPES))
def test_schema_of_a_type_is_valid_and_says_what_each_field_means(name: str) -> None:
    schema = json_schema(TYPES[name])

    Draft202012Validator.check_schema(schema)
    parts = [schema, *schema.get("$defs", {}).values()]
    fields = {
        (part.get("title"), field): what
        for part in parts
        for field, what in part.get("properties", {}).items()
    }
    assert TYPES[name].summary.endswith(".")
    of_others = {"Progress"}  # a value of the platform that events only carry
    undescribed = [
        key for key, what in fields.items() if "description" not in what and key[0] not in of_others
    ]
    assert undescribed == []
    assert schema["$id"] == f"urn:pynomaly:event:{name}:1"


def test_schemas_that_are_kept_and_the_page_are_those_of_the_catalogue() -> None:
    checked = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, timeout=60, check=False
    )

    assert checked.returncode == 0, checked.stderr


def test_newest_schema_of_each_type_breaks_no_reader_of_the_kept_one(
    docs: Any,
) -> None:
    assert docs.refusals() == []


def test_change_that_breaks_readers_is_refused_with_the_way_out(docs: Any, tmp_path: Path) -> None:
    docs.SCHEMAS = tmp_path
    docs.CATALOG = Catalog((Sample,))
    docs.stored(EventType(Sample)).write_text(
        docs.json.dumps(changed(lambda s: s["properties"].update(colour={"type": "string"})))
    )

    [problem] = docs.refusals()

    assert "sample.made: the data.colour: is gone" in problem
    assert "higher `version`" in problem


@pytest.fixture
def docs() -> Iterator[Any]:
    """The script that writes the schemas."""
    spec = importlib.util.spec_from_file_location("generate_event_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["properties"].update(colour={"type": "string", "default": "red"}),
        lambda s: s["$defs"]["Part"]["properties"].update(weight={"type": "number", "default": 0}),
        lambda s: s["properties"]["label"].update(description="Another word for it."),
        lambda s: s["properties"]["note"].update(default="-"),
    ],
    ids=["new optional field", "new optional field of a part", "description", "default"],
)
def test_change_that_breaks_nobody_is_allowed(change: Callable[[dict[str, Any]], object]) -> None:
    assert breaking_changes(SAMPLE, changed(change)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["properties"].pop("note"), "the data.note: is gone"),
        (lambda s: s["properties"].update(tag=s["properties"].pop("note")), "the data.note: is gone"),
        (lambda s: s["required"].append("note"), "the data.note: must be there now"),
        (lambda s: s["required"].remove("label"), "the data.label: need not be there"),
        (lambda s: s["properties"]["label"].update(maxLength=5), "the data.label: maxLength was 10, is 5"),
        (lambda s: s["properties"]["label"].update(maxLength=50), "the data.label: maxLength was 10, is 50"),
        (lambda s: s["properties"]["label"].update(pattern="^a"), "the data.label: pattern was None, is '^a'"),
        (lambda s: s["properties"]["label"].update(type="integer"), "the data.label: type was 'string'"),
        (lambda s: s["properties"]["note"]["anyOf"].pop(), "the data.note: anyOf was"),
        (lambda s: s["$defs"]["Part"]["properties"].pop("size"), "the data.parts items.size: is gone"),
        (lambda s: s["$defs"]["Part"]["required"].append("size"), "the data.parts items.size: must be there"),
        (lambda s: s["$defs"]["Part"]["properties"]["size"].update(minimum=1), "items.size: minimum was 0, is 1"),
        (lambda s: s["properties"]["parts"].update(maxItems=3), "the data.parts: maxItems was None, is 3"),
        (lambda s: s.update(additionalProperties=False), "the data: additionalProperties was None, is False"),
    ],
)  # fmt: skip
def test_change_that_breaks_readers_is_told(change: Callable[[dict[str, Any]], object], told: str) -> None:
    found = breaking_changes(SAMPLE, changed(change))

    assert any(told in each for each in found), found


def test_type_of_ones_own_is_added_once() -> None:
    catalog = Catalog(())

    catalog.add(Sample)
    catalog.add(Sample)

    assert [each.type for each in catalog] == ["sample.made"]


def test_data_that_no_consumer_could_read_is_refused_by_the_name_of_its_field() -> None:
    catalog = Catalog((Sample,))
    part: Any = Part(name="a", size=-1)

    require_valid(Sample(label="a", parts=()), catalog)
    with pytest.raises(InvalidInput, match=r"events\.sample\.made\.parts\.0\.size: "):
        require_valid(Sample(label="a", parts=(part,)), catalog)
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        require_valid(Sample(label=object(), parts=()), catalog)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="add_event_type"):
        require_valid(Sample(label="a", parts=()), Catalog(()))


def test_another_class_for_the_same_type_and_version_is_refused() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Other(EventData):
        """The same name."""

        type: ClassVar[str] = "sample.made"
        topic: ClassVar[str] = "job_events"

    with pytest.raises(
        ValueError, match=r"sample.made version 1 is Sample; give .*Other another type or version"
    ):
        Catalog((Sample, Other))

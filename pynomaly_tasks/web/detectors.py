"""The catalogue of detectors: for programs as JSON schema, for people as a form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from pynomaly_tasks.domain.detection.catalog import CATALOG, DetectorEntry, parameter_schema

router = APIRouter(prefix="/api/v1", tags=["detectors"])

Control = Literal["number", "choice", "switch", "several"]


class DetectorView(BaseModel):
    """One detector and what it takes."""

    name: str
    kind: Literal["tabular", "series"]
    description: str
    max_rows: int | None = Field(description="Longer files are refused; None: no limit.")
    takes_missing: bool
    params_schema: dict[str, Any] = Field(description="JSON schema of `detector.params`.")


class DetectorList(BaseModel):
    """Every detector, those for tables first."""

    detectors: list[DetectorView]


@router.get("/detectors")
def list_detectors() -> DetectorList:
    """Every detector by name, with its parameters, their limits and defaults."""
    return DetectorList(
        detectors=[
            DetectorView(
                name=entry.name,
                kind=entry.kind,
                description=entry.description,
                max_rows=entry.max_rows,
                takes_missing=entry.takes_missing,
                params_schema=parameter_schema(entry.name),
            )
            for entry in CATALOG.values()
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """One parameter as a form shows it."""

    name: str
    control: Control
    default: Any
    description: str
    whole: bool = False  #: only whole numbers
    optional: bool = False  #: empty means null
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    fewest: int = 0  #: of ``several``

    @property
    def limits(self) -> str:
        """The limits in a few words, for people."""
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"{low:,g} to {high:,g}"
        if low is not None:
            return f"at least {low:,g}"
        return f"at most {high:,g}" if high is not None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorForm:
    """One detector as a form shows it."""

    entry: DetectorEntry
    fields: tuple[FormField, ...]


@lru_cache(maxsize=1)
def detector_forms() -> tuple[DetectorForm, ...]:
    """Every detector with its fields."""
    return tuple(DetectorForm(entry=entry, fields=_fields(entry.name)) for entry in CATALOG.values())


def _fields(name: str) -> tuple[FormField, ...]:
    schema = parameter_schema(name)
    return tuple(_field(key, spec) for key, spec in schema.get("properties", {}).items())


def _field(name: str, spec: dict[str, Any]) -> FormField:
    variants = [one for one in spec.get("anyOf", [spec]) if one.get("type") != "null"]
    optional = len(variants) < len(spec.get("anyOf", [spec]))
    choices = tuple(str(choice) for one in variants for choice in one.get("enum", ()))
    types = {one.get("type") for one in variants}
    control: Control = "number"
    if "array" in types:
        control = "several"
        choices = _choices_of(variants[0].get("items", {}))
    elif types == {"boolean"}:
        control = "switch"
    elif choices:
        control = "choice"
    numeric = variants[0]
    return FormField(
        name=name,
        control=control,
        default=spec.get("default"),
        description=str(spec.get("description", "")),
        whole=types == {"integer"},
        optional=optional,
        minimum=numeric.get("minimum", numeric.get("exclusiveMinimum")),
        maximum=numeric.get("maximum", numeric.get("exclusiveMaximum")),
        choices=choices,
        fewest=int(numeric.get("minItems", 0)),
    )


def _choices_of(items: dict[str, Any]) -> tuple[str, ...]:
    """What a list may hold: the schema's own words, or else the detectors that an ensemble takes."""
    if "enum" in items:
        return tuple(str(choice) for choice in items["enum"])
    return tuple(e.name for e in CATALOG.values() if e.kind == "tabular" and e.name != "ensemble")

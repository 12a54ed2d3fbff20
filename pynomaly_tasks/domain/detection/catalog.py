"""Every detector by name, with what it takes. Light: importing this loads pydantic alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pynomaly_tasks.domain.detection.pyod_classes import pyod_classes
from pynomaly_tasks.domain.detection.series_params import MAX_POINTS, SERIES_PARAMS
from pynomaly_tasks.domain.detection.tabular_params import (
    EXACT_ROWS,
    EcodParams,
    HbosParams,
    InneParams,
    IsolationForestParams,
    KnnParams,
    LofParams,
    MahalanobisParams,
    McdParams,
    OneClassSvmParams,
    PyodParams,
    TabularParams,
)

PYOD_PREFIX = "pyod:"
_PYOD_NAME = re.compile(r"pyod:[A-Za-z][A-Za-z0-9_]{0,63}")
DetectorKind = Literal["tabular", "series"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorEntry:
    """One detector of the catalogue."""

    name: str
    kind: DetectorKind
    description: str
    params: type[BaseModel]
    max_rows: int | None = None  #: longer files are refused; None: no limit
    takes_missing: bool = False  #: missing values go in as they are; else the column's median stands in


class DetectorSpec(BaseModel):
    """A detector and its parameters: a name, or ``{"name": ..., "params": {...}}``.

    ``params`` comes out complete: what was not given has its default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    name: str = Field(max_length=80, description="a detector of the catalogue, or pyod:<class>")
    params: dict[str, Any] = Field(default_factory=dict, validate_default=True, description="its parameters")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        problem = _unknown_detector(name) if find_detector(name) is None else _unknown_class(name)
        if problem is not None:
            raise PydanticCustomError("unknown_detector", "{problem}", {"problem": problem})
        return name

    @field_validator("params")
    @classmethod
    def _complete(cls, params: dict[str, Any], info: Any) -> dict[str, Any]:
        name = info.data.get("name")
        entry = find_detector(name) if name is not None else None
        if entry is None:
            return params  # the name's own error says enough
        _refuse_unknown(entry, params)
        return entry.params.model_validate(params).model_dump(mode="json")

    def entry(self) -> DetectorEntry:
        """Its entry in the catalogue."""
        entry = find_detector(self.name)
        assert entry is not None, "checked when the spec was made"
        return entry

    def typed_params(self) -> Any:
        """The parameters as the entry's own model."""
        return self.entry().params.model_validate(self.params)


class EnsembleParams(TabularParams):
    """Members and how their ranks become one score."""

    members: tuple[DetectorSpec, ...] = Field(
        default=("inne", "isolation_forest", "knn"),  # names; validated into specs
        validate_default=True,
        min_length=2,
        max_length=8,
        description="detectors for tables; a global and a local one together",
    )
    combine: Literal["mean", "max"] = Field(default="mean", description="of the members' ranks")

    @field_validator("members")
    @classmethod
    def _for_tables(cls, members: tuple[DetectorSpec, ...]) -> tuple[DetectorSpec, ...]:
        return check_members(members)


def check_members(members: tuple[DetectorSpec, ...]) -> tuple[DetectorSpec, ...]:
    """The same, if each can be a member of an ensemble; for use in validators."""
    for member in members:
        if member.name == "ensemble" or member.entry().kind != "tabular":
            raise PydanticCustomError(
                "bad_member",
                "{name} cannot be a member: an ensemble takes detectors for tables, and not another ensemble",
                {"name": member.name},
            )
    return members


def find_detector(name: str) -> DetectorEntry | None:
    """The entry by that name, or None. Any ``pyod:<class>`` has one; the class is looked up at the work."""
    if _PYOD_NAME.fullmatch(name):
        return DetectorEntry(
            name=name,
            kind="tabular",
            description="A detector of the PyOD library, by its class",
            params=PyodParams,
            max_rows=EXACT_ROWS,
        )
    return CATALOG.get(name)


def detector_names() -> tuple[str, ...]:
    """All names, the general ``pyod:<class>`` last."""
    return (*CATALOG, f"{PYOD_PREFIX}<class>")


def parameter_schema(name: str) -> dict[str, Any]:
    """JSON schema of a detector's parameters, with bounds and defaults, for forms."""
    return CATALOG[name].params.model_json_schema()


def _unknown_detector(name: str) -> str:
    close = difflib.get_close_matches(name, CATALOG, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"no detector is called {name[:80]!r}{hint}; choose one of {', '.join(detector_names())}"


def _unknown_class(name: str) -> str | None:
    # Where PyOD is not installed here, it may still be where the work is done: the worker decides.
    classes = pyod_classes() if name.startswith(PYOD_PREFIX) else None
    class_name = name.removeprefix(PYOD_PREFIX)
    if classes is None or class_name in classes:
        return None
    close = difflib.get_close_matches(class_name, classes, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"PyOD has no detector {class_name!r}{hint}; it has {', '.join(sorted(classes))}"


def _refuse_unknown(entry: DetectorEntry, params: Mapping[str, Any]) -> None:
    if entry.params.model_config.get("extra") == "allow":
        return
    valid = tuple(entry.params.model_fields)
    takes = f"it takes {', '.join(valid)}" if valid else "it takes none"
    unknown: list[InitErrorDetails] = [
        InitErrorDetails(
            type=PydanticCustomError(
                "unknown_parameter",
                "{detector} has no parameter of this name; {takes}",
                {"detector": entry.name, "takes": takes},
            ),
            loc=(key,),
            input=value,
        )
        for key, value in params.items()
        if key not in valid
    ]
    if unknown:
        raise ValidationError.from_exception_data("params", unknown)


def _entries() -> Mapping[str, DetectorEntry]:
    def table(
        name: str,
        params: type[BaseModel],
        description: str,
        *,
        max_rows: int | None = None,
        takes_missing: bool = False,
    ) -> DetectorEntry:
        return DetectorEntry(
            name=name,
            kind="tabular",
            description=description,
            params=params,
            max_rows=max_rows,
            takes_missing=takes_missing,
        )

    tables = (
        table(
            "isolation_forest",
            IsolationForestParams,
            "How few random cuts isolate a row (scikit-learn); global, fast, a good first choice",
            takes_missing=True,
        ),
        table(
            "ecod",
            EcodParams,
            "How far out in the tails of each column a row lies; no parameters, explains itself",
            takes_missing=True,
        ),
        table(
            "hbos",
            HbosParams,
            "How empty the histogram bins of a row's values are; the fastest",
            takes_missing=True,
        ),
        table(
            "mahalanobis",
            MahalanobisParams,
            "Distance from the mean, correlations allowed for; finds broken correlations",
        ),
        table(
            "knn",
            KnnParams,
            f"Distance to the nearest rows; local; past {EXACT_ROWS:,} rows against a sample",
        ),
        table(
            "lof",
            LofParams,
            f"Density relative to the neighbours'; most local; past {EXACT_ROWS:,} rows against a sample",
        ),
        table("inne", InneParams, "Isolation by nearest-neighbour spheres; between global and local"),
        table("mcd", McdParams, "Distance under a covariance that outliers do not bend (scikit-learn)"),
        table(
            "one_class_svm",
            OneClassSvmParams,
            "Outside the smallest region that holds most rows (scikit-learn); small files only",
            max_rows=20_000,
        ),
        table("ensemble", EnsembleParams, "Mean rank over several detectors; steadier than any one of them"),
    )
    series = (
        DetectorEntry(
            name=name,
            kind="series",
            description=description,
            params=params,
            max_rows=MAX_POINTS,
            takes_missing=True,
        )
        for name, (params, description) in SERIES_PARAMS.items()
    )
    return MappingProxyType({entry.name: entry for entry in (*tables, *series)})


#: Name to entry, tables first.
CATALOG: Mapping[str, DetectorEntry] = _entries()

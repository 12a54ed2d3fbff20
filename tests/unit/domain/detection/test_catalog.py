from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from pynomaly_tasks.domain.detection.catalog import (
    CATALOG,
    DetectorSpec,
    detector_names,
    find_detector,
    parameter_schema,
)


def problems(value: Any) -> list[tuple[tuple[Any, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        DetectorSpec.model_validate(value)
    return [(error["loc"], error["msg"]) for error in caught.value.errors()]


def test_a_name_alone_gets_every_default() -> None:
    spec = DetectorSpec.model_validate("knn")

    assert spec.name == "knn"
    assert spec.params == {
        "n_neighbors": 5,
        "method": "largest",
        "scaling": "standard",
        "reference_rows": 2_000,
    }


def test_a_spec_survives_json() -> None:
    spec = DetectorSpec.model_validate({"name": "ensemble", "params": {"members": ["knn", "ecod"]}})

    assert DetectorSpec.model_validate_json(spec.model_dump_json()) == spec


def test_an_unknown_detector_is_refused_with_the_valid_names() -> None:
    [(where, what)] = problems("isolation_forrest")

    assert where == ("name",)
    assert "did you mean isolation_forest?" in what
    assert all(name in what for name in detector_names())


def test_an_unknown_parameter_is_refused_with_the_valid_names() -> None:
    [(where, what)] = problems({"name": "lof", "params": {"neighbours": 5}})

    assert where == ("params", "neighbours")
    assert "n_neighbors" in what
    assert "reference_rows" in what


@pytest.mark.parametrize(
    ("name", "parameter", "value", "limit"),
    [
        ("knn", "n_neighbors", 0, "greater than or equal to 1"),
        ("knn", "n_neighbors", 501, "less than or equal to 500"),
        ("isolation_forest", "max_features", 0.0, "greater than 0"),
        ("one_class_svm", "nu", 1.5, "less than or equal to 1"),
        ("mcd", "support_fraction", 0.2, "greater than 0.5"),
        ("hbos", "alpha", float("nan"), "finite"),
        ("hbos", "scaling", "log", "'standard' or 'none'"),
        ("ecod", "anything", 1, "it takes none"),
    ],
)
def test_a_parameter_out_of_range_is_refused_with_its_limit(
    name: str, parameter: str, value: Any, limit: str
) -> None:
    [(where, what)] = problems({"name": name, "params": {parameter: value}})

    assert where == ("params", parameter)
    assert limit in what


def test_a_problem_in_an_ensembles_member_is_named_by_its_place() -> None:
    value = {
        "name": "ensemble",
        "params": {"members": ["ecod", {"name": "knn", "params": {"n_neighbors": -1}}]},
    }

    assert ("params", "members", 1, "params", "n_neighbors") in [where for where, _ in problems(value)]


@pytest.mark.parametrize("member", ["ensemble", "stl_residual"])
def test_an_ensemble_takes_neither_ensembles_nor_series_detectors(member: str) -> None:
    [(where, what)] = problems({"name": "ensemble", "params": {"members": ["ecod", member]}})

    assert where == ("params", "members")
    assert member in what


def test_an_unknown_pyod_class_is_refused_where_pyod_is_installed() -> None:
    [(where, what)] = problems("pyod:COPDO")

    assert where == ("name",)
    assert "did you mean COPOD?" in what


def test_pyod_parameters_may_be_plain_values_only() -> None:
    assert problems({"name": "pyod:KNN", "params": {"metric": {"a": 1}}})


def test_every_entry_describes_itself_and_its_parameters() -> None:
    for name, entry in CATALOG.items():
        schema = parameter_schema(name)
        assert entry.name == name
        assert len(entry.description) > 20
        assert all("description" in field for field in schema.get("properties", {}).values()), name
        assert entry.params.model_validate({}) is not None


def test_nothing_is_found_by_a_strange_name() -> None:
    assert find_detector("pyod:os.system") is None
    assert find_detector("") is None


def test_the_catalogue_loads_no_numerical_library() -> None:
    code = (
        "import sys, pynomaly_tasks.domain.detection.catalog as c;"
        "c.DetectorSpec.model_validate('pyod:KNN');"
        "print(sorted({'numpy','scipy','sklearn','pyarrow','duckdb','pyod'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"

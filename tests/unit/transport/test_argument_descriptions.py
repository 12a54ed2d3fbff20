"""What a task's headers say of its arguments: as `repr` says it, and short however large they are."""

from __future__ import annotations

from typing import Any

import pytest

from pynomaly_tasks.transport.encoding import short_repr


class Unwilling:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [(), (1,), (1, "two", b"three", None, 4.5), {}, {"a": [1, {"b": (2,)}]}, [], {1}, set(), frozenset({2}), "it's"],
)  # fmt: skip
def test_small_arguments_are_described_as_repr_does(value: Any) -> None:
    assert short_repr(value, 1_024, 5) == repr(value)


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, b"x" * 10**6, list(range(10**6)), dict.fromkeys(range(1000), "x" * 5000), [["x" * 900] * 9] * 9],
    ids=["text", "bytes", "list", "dict", "nested"],
)  # fmt: skip
def test_large_arguments_are_described_in_about_the_limit(value: Any) -> None:
    described = short_repr((value,), 1_024, 3)

    assert "..." in described
    assert len(described) < 1_100


def test_what_is_too_deep_or_contains_itself_is_left_out() -> None:
    circle: list[Any] = [1]
    circle.append(circle)

    assert short_repr([[[[1]]]], 1_024, 2) == "[[[...]]]"
    assert short_repr(circle, 1_024, 2) == "[1, [1, [...]]]"


def test_object_without_a_description_does_not_stop_a_task() -> None:
    assert short_repr([Unwilling()], 1_024, 3) == "[<Unwilling whose repr raises RuntimeError>]"

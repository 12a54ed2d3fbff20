"""From whatever a caller sent to a valid request, or an error that names each field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pynomaly_tasks.errors import FieldProblem, InvalidRequest

M = TypeVar("M", bound=BaseModel)

#: JSON deeper than this is refused; no request of ours nests more than ten levels.
MAX_DEPTH = 100

#: Kinds of problem where the value that was sent helps to see what is wrong.
_LIMITS = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number", "multiple_of"}
    | {"int_parsing", "int_type", "float_parsing", "float_type", "bool_type", "string_type", "literal_error"}
)


def validated(model: type[M], values: Mapping[str, Any], prefix: str = "") -> M:
    """``values`` as ``model``. Raises InvalidRequest with one problem a wrong field."""
    _check_depth(values)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        known = ", ".join(model.model_fields)
        problems = []
        for problem in error.errors(include_url=False):
            field = prefix + (".".join(str(part) for part in problem["loc"]) or "request")
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
                message = f"there is no such field; the fields are {known}"
            elif problem["type"] in _LIMITS:
                message += f"; got {problem['input']!r:.60}"
            problems.append(FieldProblem(field=field, message=message))
        raise InvalidRequest(*problems) from None


def named_arguments(model: type[BaseModel], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Positional and keyword arguments of ``.delay()`` as one mapping of fields.

    The model's ``POSITIONAL`` names the fields that may be given by position. Raises InvalidRequest.
    """
    names: tuple[str, ...] = getattr(model, "POSITIONAL", ())
    if len(args) > len(names):
        takes = f"at most {len(names)} ({', '.join(names)})" if names else "none"
        raise InvalidRequest.of(
            "args", f"{len(args)} positional arguments were given, {takes} can be taken; name the others"
        )
    values = dict(zip(names, args, strict=False))
    twice = sorted(values.keys() & kwargs.keys())
    if twice:
        raise InvalidRequest.of(twice[0], "was given both by position and by name; give it once")
    return {**values, **kwargs}


def _check_depth(values: object) -> None:
    level: list[object] = [values]
    for _ in range(MAX_DEPTH):
        following: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                following.extend(value.values())
            elif isinstance(value, (list, tuple)):
                following.extend(value)
        if not following:
            return
        level = following
    raise InvalidRequest.of("request", f"is nested deeper than {MAX_DEPTH} levels; flatten it")

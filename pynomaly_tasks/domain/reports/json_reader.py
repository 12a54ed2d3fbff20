"""Reading a job's result, which is JSON: missing parts are None or empty, never an exception."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = Mapping[str, Any]


def obj(value: Any, key: str) -> Json:
    """The object under ``key``, or an empty one."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def objs(value: Any, key: str) -> list[Json]:
    """The objects in the list under ``key``."""
    return [one for one in items(value, key) if isinstance(one, Mapping)]


def items(value: Any, key: str) -> Sequence[Any]:
    """The list under ``key``, or an empty one."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, list | tuple) else []


def number(value: Any, key: str | None = None) -> float | None:
    """The finite number under ``key`` (or the value itself), else None."""
    if key is not None:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def whole(value: Any, key: str) -> int | None:
    """The integer under ``key``, else None."""
    found = number(value, key)
    return None if found is None else int(found)


def text(value: Any, key: str) -> str | None:
    """What is under ``key`` as text, else None."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return None if found is None else str(found)


def texts(value: Any, key: str) -> list[str]:
    """The list under ``key`` as texts."""
    return [str(one) for one in items(value, key)]

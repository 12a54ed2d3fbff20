"""From the words of a command line to the values of a request."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import orjson
import rich_click as click

from pynomaly_tasks.errors import InvalidRequest


def request_object(text: str) -> dict[str, Any]:
    """The JSON object in ``text``, or on standard input for ``-``. Raises InvalidRequest."""
    value = _json("request", sys.stdin.buffer.read() if text == "-" else text)
    if not isinstance(value, dict):
        raise InvalidRequest.of(
            "request", f'is {type(value).__name__}, not an object; name the fields: {{"dataset": "..."}}'
        )
    return value


def named_values(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as a mapping: VALUE is JSON, and what is no JSON is taken as text.

    Raises UsageError without a name, InvalidRequest for a list, an object or a quoted text that is broken.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise click.UsageError(f"{option} takes NAME=VALUE, not {pair!r}.")
        values[name] = _json(name, text) if text.startswith(("{", "[", '"')) else _json_or_text(text)
    return values


def _json(name: str, text: str | bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest.of(name, f"is no JSON: {error}") from None


def _json_or_text(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text

"""One line of JSON lines as an object, by the same rules as duckdb's reader. Loads no library."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

from pynomaly_tasks.datasets.source import refused

TOO_DEEP = "holds JSON nested deeper than 128 levels; flatten it"
NO_KEYS = "is not JSON lines: each line must be an object with at least one key, and no empty key"
# duckdb takes the last two, where they stand in no text; Python's json does not. A text that is never closed goes
# to the end and nothing is tried twice, so that hostile input costs no more than other.
_TEXT_OR_ODDITY = re.compile(
    r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|(?P<number>-?\b(?:nan|inf(?:inity)?)\b)|(?P<comma>,(?=\s*[\]}]))',
    re.IGNORECASE | re.DOTALL,
)


def object_of(source: str, number: int, line: bytes) -> dict[str, Any]:
    """The object of a line, numbers as float; a blank line, and null, have no keys. Raises InvalidDataset.

    line: UTF-8.
    """
    text = line.removeprefix(codecs.BOM_UTF8).decode() if number == 1 else line.decode()
    if not text.strip():
        return {}
    try:
        value = parsed(text)
    except RecursionError:
        raise refused(f"{source!r} {TOO_DEEP}") from None
    except json.JSONDecodeError as error:
        raise refused(f"{source!r} line {number}: is not valid JSON: {error.msg}") from None
    if value is not None and not isinstance(value, dict):
        raise refused(f"{source!r} line {number}: is not a JSON object {{...}}")
    return value or {}


def parsed(text: str) -> Any:
    """The value of a JSON text as duckdb reads it: numbers as float, infinite ones perhaps as NaN.

    Raises JSONDecodeError, RecursionError.
    """
    try:
        # Python refuses to read an int of more than 4,300 digits.
        return json.loads(text, parse_int=float)
    except json.JSONDecodeError as error:
        loosened = _TEXT_OR_ODDITY.sub(_loosened, text)
        if loosened == text:
            raise
        try:
            return json.loads(loosened, parse_int=float)
        except json.JSONDecodeError:
            raise error from None


def _loosened(found: re.Match[str]) -> str:
    if found["number"]:
        return "NaN"
    return "" if found["comma"] else found[0]

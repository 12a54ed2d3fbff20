"""The detector classes of an installed PyOD, found without importing it. Light."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

_CLASS = re.compile(r"^class (\w+)\(([^)]*)\)", re.MULTILINE)


@lru_cache(maxsize=1)
def pyod_classes() -> Mapping[str, str] | None:
    """Class name to module of every detector, or None when PyOD is not installed."""
    spec = importlib.util.find_spec("pyod")
    if spec is None or not spec.submodule_search_locations:
        return None
    found: dict[str, str] = {}
    for module in sorted(Path(spec.submodule_search_locations[0], "models").glob("*.py")):
        for name, bases in _CLASS.findall(module.read_text(encoding="utf-8")):
            if "Detector" in bases and not name.startswith("Base"):
                found[name] = f"pyod.models.{module.stem}"
    return found

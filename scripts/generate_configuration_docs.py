"""Write docs/configuration.md from the settings; with --check, only say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from pynomaly_tasks.settings import Settings

TARGET = Path(__file__).parents[1] / "docs" / "configuration.md"
HEAD = """\
# Configuration

Every setting is an environment variable, `PYNOMALY_<SECTION>__<FIELD>`; what is not set has the default
below. Lists and maps are JSON. `pynomaly config show` prints what is in force, secrets masked;
`pynomaly config check` names every field that is wrong. Written by `make docs` from
`pynomaly_tasks/settings/`.
"""


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    arguments = [part for part in get_args(annotation) if part is not type(None)]
    if type(None) in get_args(annotation):
        return _type(arguments[0])
    if get_origin(annotation) is tuple:
        return "list"
    if get_origin(annotation) is dict:
        return "map"
    names = {
        int: "whole number",
        float: "number",
        bool: "`true` or `false`",
        SecretStr: "secret",
        Path: "path",
    }
    return names.get(annotation, "text")


def _limits(field: FieldInfo) -> str:
    parts = []
    for limit in field.metadata:
        match limit:
            case Gt(gt=value):
                parts.append(f"> {value:,}")
            case Ge(ge=value):
                parts.append(f">= {value:,}")
            case Lt(lt=value):
                parts.append(f"< {value:,}")
            case Le(le=value):
                parts.append(f"<= {value:,}")
    return ", ".join(parts)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)  # type: ignore[call-arg]  # no factory takes data
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value == () or value == {}:
        return "none"
    return f"`{value:g}`" if isinstance(value, float) and value < 1e6 else f"`{value}`"


def _section(name: str, model: type[BaseModel]) -> list[str]:
    lines = [f"## {name}", "", (model.__doc__ or "").strip(), ""]
    lines += ["| variable | default | value | what it does |", "|---|---|---|---|"]
    for field_name, field in model.model_fields.items():
        variable = f"PYNOMALY_{name.upper()}__{field_name.upper()}"
        value = ", ".join(part for part in (_type(field.annotation), _limits(field)) if part)
        what = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{variable}` | {_default(field)} | {value} | {what} |")
    return [*lines, ""]


def render() -> str:
    """The whole page."""
    lines = [HEAD]
    for name, field in Settings.model_fields.items():
        assert isinstance(field.annotation, type)
        lines += _section(name, field.annotation)
    return "\n".join(lines)


def main() -> None:
    """Write the page, or check it."""
    page = render()
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text("utf-8") != page:
            raise SystemExit(f"{TARGET} is out of date: run make docs")
        return
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(page, "utf-8")


if __name__ == "__main__":
    main()

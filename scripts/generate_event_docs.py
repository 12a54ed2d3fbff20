"""Write docs/event-schemas/ and the tables of docs/events.md from the catalogue; --check only compares.

A schema that others may rely on is replaced only by one that breaks nobody: else the type's version must rise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pynomaly_tasks.events.catalog import CATALOG, EventType
from pynomaly_tasks.events.schemas import breaking_changes, json_schema

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT / "docs" / "event-schemas"
PAGE = ROOT / "docs" / "events.md"
BEGIN, END = "<!-- types: written by make docs -->\n", "<!-- end of types -->\n"


def stored(event_type: EventType) -> Path:
    """Where the schema of one version of one type is kept."""
    return SCHEMAS / f"{event_type.type}.{event_type.version}.json"


def refusals() -> list[str]:
    """What is wrong with the catalogue beside the schemas that are kept."""
    problems = []
    for event_type in CATALOG:
        file = stored(event_type)
        if file.exists():
            for change in breaking_changes(json.loads(file.read_text("utf-8")), json_schema(event_type)):
                problems.append(
                    f"{event_type.type}: {change}. That breaks readers: keep what was there and add fields with "
                    "defaults, or give the changed data a class of its own with a higher `version`"
                )
    return problems


def rendered(event_type: EventType) -> str:
    """The schema as it is kept."""
    return json.dumps(json_schema(event_type), indent=2, ensure_ascii=False) + "\n"


def page() -> str:
    """docs/events.md with today's tables."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = ["\n", "| type | topic | says | schema |\n", "|---|---|---|---|\n"]
    for each in CATALOG:
        link = f"[{each.version}](event-schemas/{stored(each).name})"
        lines.append(f"| `{each.type}` | {each.topic} | {each.summary} | {link} |\n")
    return before + BEGIN + "".join(lines) + "\n" + END + after


def outdated() -> list[Path]:
    """Files that are not as the catalogue would have them."""
    wanted = {stored(each): rendered(each) for each in CATALOG} | {PAGE: page()}
    return [file for file, text in wanted.items() if not file.exists() or file.read_text("utf-8") != text]


def main() -> None:
    """Write, or check."""
    problems = refusals()
    if problems:
        raise SystemExit("\n".join(problems))
    files = outdated()
    if "--check" in sys.argv:
        if files:
            raise SystemExit(
                f"out of date: {', '.join(map(str, files))}: run make docs and commit what it writes"
            )
        return
    SCHEMAS.mkdir(exist_ok=True)
    text = page()
    for event_type in CATALOG:
        stored(event_type).write_text(rendered(event_type), "utf-8")
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

"""Write the table of what each broker can do into README.md and docs/messaging.md; --check only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from pynomaly_tasks.messaging import BACKEND_NAMES, capability_rows, capability_table

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "messaging.md")
BEGIN, END = "<!-- capabilities: written by make docs -->\n", "<!-- end of capabilities -->\n"


def page(file: Path) -> str:
    """The file with today's table."""
    before, begin, rest = file.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{file} has no place for the table: {BEGIN.strip()} and {END.strip()}")
    head, *rows = ("| " + " | ".join(row) + " |\n" for row in capability_rows(capability_table()))
    rule = "|" + "---|" * (len(BACKEND_NAMES) + 1) + "\n"
    return before + BEGIN + "\n" + head + rule + "".join(rows) + "\n" + END + after


def main() -> None:
    """Write, or check."""
    files = {file: page(file) for file in PAGES}
    old = [file for file, text in files.items() if file.read_text("utf-8") != text]
    if "--check" in sys.argv:
        if old:
            raise SystemExit(
                f"out of date: {', '.join(map(str, old))}: run make docs and commit what it writes"
            )
        return
    for file in old:
        file.write_text(files[file], "utf-8")


if __name__ == "__main__":
    main()

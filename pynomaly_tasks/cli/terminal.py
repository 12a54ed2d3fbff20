"""How the commands print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import orjson
import rich_click as click
from rich.cells import cell_len
from rich.console import Console

from pynomaly_tasks.errors import Conflict, InvalidInput, NotFound

T = TypeVar("T")

#: Into a file or a pipe, nothing is cut to a screen's width.
_WIDE = 250
#: On a terminal, where a longer text would hide the rows around it.
_SHOWN_CHARACTERS = 100


def console(*, stderr: bool = False) -> Console:
    """The terminal, or a wide page where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else _WIDE)


def one_line(text: str) -> str:
    """The text without line breaks and control characters: what others wrote must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned on a terminal; in a pipe one tab between the cells, and each cell whole."""
    table = [list(columns), *([one_line(cell) for cell in row] for row in rows)]
    if not sys.stdout.isatty():
        for row in table:
            click.echo("\t".join(row))
        return
    table = [[_shortened(cell) for cell in row] for row in table]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def print_json(value: Any) -> None:
    """Indented JSON; dataclasses and instants as they are stored."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def change_each(names: Sequence[T], change: Callable[[T], str]) -> None:
    """Print what ``change`` says of each; one that is refused stops none of the others.

    Exit code 1 when any was refused. Raises Unavailable at once: the others would fail as well.
    """
    refused = False
    for name in names:
        try:
            click.echo(change(name))
        except (NotFound, Conflict, InvalidInput) as error:
            refused = True
            click.echo(f"pynomaly: {error}", err=True)
    if refused:
        sys.exit(1)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"

"""Where the commands print their tables."""

from __future__ import annotations

import sys

from rich.console import Console

#: Into a file or a pipe, nothing is cut to a screen's width.
_WIDE = 250


def console(*, stderr: bool = False) -> Console:
    """The terminal, or a wide page where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else _WIDE)

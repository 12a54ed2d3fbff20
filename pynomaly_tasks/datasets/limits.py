"""How large a dataset may be, and which column names it may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pynomaly_tasks.datasets.source import refused

MAX_NAME_LENGTH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest dataset that is opened."""

    n_columns: int
    n_rows: int

    def check_names(self, source: str, names: Sequence[str]) -> None:
        """Refuse too many columns, and names that could not tell two columns apart. Raises InvalidDataset."""
        if len(names) > self.n_columns:
            raise refused(
                f"{source!r} has {len(names):,} columns, the limit is {self.n_columns:,}; "
                "leave columns out, or raise data.max_columns"
            )
        for name in names:
            if len(name) > MAX_NAME_LENGTH:
                raise refused(
                    f"{source!r} has a column name of {len(name):,} characters, the limit is "
                    f"{MAX_NAME_LENGTH:,}: {name[:40]!r}...; is a quote left open in the first line?"
                )
            if "\0" in name:
                raise refused(f"{source!r} has a NUL character in the column name {name!r}; rename it")
        folded = Counter(name.lower() for name in names)
        same = [name for name in names if folded[name.lower()] > 1]
        if same:
            raise refused(
                f"{source!r} has columns of the same name (capitals do not count): "
                f"{', '.join(map(repr, same[:6]))}; rename them"
            )

    def check_rows(self, source: str, n_rows: int) -> None:
        """Refuse no rows and too many. Raises InvalidDataset."""
        if n_rows == 0:
            raise refused(f"{source!r} has column names but no rows")
        if n_rows > self.n_rows:
            raise refused(f"{source!r} has more than {self.n_rows:,} rows; split it, or raise data.max_rows")


def require_columns(source: str, known: Collection[str], wanted: Sequence[str]) -> None:
    """Refuse a column that is not there, naming those that are. Raises InvalidDataset."""
    for name in wanted:
        if name not in known:
            listed = ", ".join(repr(one) for one in list(known)[:20])
            more = f" and {len(known) - 20} more" if len(known) > 20 else ""
            raise refused(f"{source!r} has no column {name!r}; it has {listed}{more}")

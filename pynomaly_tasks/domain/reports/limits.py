"""How much of a result the HTML file shows; all of it is in report.json and anomalies.csv."""

from __future__ import annotations

from dataclasses import dataclass

MAX_HTML_BYTES = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one section may hold."""

    n_anomalies: int = 25
    n_contributions: int = 4
    n_values: int = 16
    n_drivers: int = 10
    n_names: int = 40  #: columns that are only named, warnings
    n_columns: int = 60  #: columns of a profile
    n_correlated: int = 16
    n_plotted: int = 2_000
    n_close_ups: int = 6


#: Tried in turn until the file fits.
STEPS = (
    Limits(),
    Limits(n_anomalies=15, n_values=8, n_columns=40, n_correlated=12, n_plotted=1_000),
    Limits(
        n_anomalies=10, n_contributions=3, n_values=0, n_names=20,
        n_columns=20, n_correlated=8, n_plotted=500, n_close_ups=3,
    ),
    Limits(
        n_anomalies=5, n_contributions=3, n_values=0, n_drivers=5, n_names=8,
        n_columns=8, n_correlated=5, n_plotted=150, n_close_ups=0,
    ),
    Limits(
        n_anomalies=1, n_contributions=1, n_values=0, n_drivers=2, n_names=2,
        n_columns=1, n_correlated=2, n_plotted=50, n_close_ups=0,
    ),
)  # fmt: skip

"""The transport benchmark's table, and its goals with what was measured."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

Row = dict[str, float]


@dataclass(frozen=True)
class Results:
    """Of all rounds."""

    rows: dict[str, list[Row]]
    waits_ms: dict[str, list[float]]

    def median(self, name: str, key: str) -> float:
        """NaN where it was not measured, which no comparison reaches."""
        values = [row[key] for row in self.rows.get(name, []) if key in row]
        return statistics.median(values) if values else float("nan")

    def wait_ms(self, name: str, share: float) -> float:
        """A quantile of the start latency."""
        waits = sorted(self.waits_ms.get(name, []))
        return waits[min(int(len(waits) * share), len(waits) - 1)] if waits else float("nan")

    def cell(self, name: str, key: str) -> str:
        """Median (least-most)."""
        values = [row[key] for row in self.rows[name] if key in row]
        if not values:
            return "-"
        return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"

    def table(self) -> str:
        """Markdown."""
        keys = ("one_rate", "one_cpu_us", "many_rate", "many_cpu_us", "run_rate", "run_cpu_us", "memory_mb")
        lines = [
            "| contestant | publish one, /s | its CPU, us | publish many, /s | its CPU, us "
            "| end to end, /s | worker CPU, us a task | memory, MB | start p50 / p99, ms |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name in self.rows:
            cells = [self.cell(name, key) for key in keys]
            start = f"{self.wait_ms(name, 0.5):.1f} / {self.wait_ms(name, 0.99):.1f}"
            lines.append(f"| {name} | {' | '.join(cells)} | {start if self.waits_ms.get(name) else '-'} |")
            if any("more_rate" in row for row in self.rows[name]):
                cells = [self.cell(name, "more_rate"), self.cell(name, "more_cpu_us")]
                lines.append(f"| its send_many | - | - | {' | '.join(cells)} | - | - | - | - |")
        return "\n".join(lines)

    def goals(self) -> str:
        """Each goal with what was measured."""
        run = {name: self.median(name, "run_rate") for name in self.rows}
        plain = "Celery tuned, "
        dramatiq = max(run.get("dramatiq, 8 threads", 0), run.get("dramatiq, 2 x 4 threads", 0))
        lines = []

        def goal(text: str, value: float, limit: float, *, at_most: bool = False) -> None:
            if value != value or not value:
                lines.append(f"- {text}: not measured")
                return
            is_reached = value <= limit if at_most else value >= limit
            lines.append(f"- {text}: {value:,.2f}, {'at most' if at_most else 'at least'} {limit:,.2f}: "
                         f"{'yes' if is_reached else 'no'}")  # fmt: skip

        for pool, factor in (("8 threads", 5), ("2 solo", 8), ("prefork", 2)):
            ours, nan = run.get(f"ours, {pool}", float("nan")), float("nan")
            for peer in dict.fromkeys(("prefork", pool)):
                goal(
                    f"end to end, {pool}, x tuned Celery's {peer}",
                    ours / run.get(f"{plain}{peer}", nan),
                    factor,
                )
        best = max(("ours, 8 threads", "ours, 2 solo"), key=lambda name: run.get(name, 0))
        goal(f"end to end, {best}, x dramatiq's better", run.get(best, 0) / (dramatiq or float("nan")), 1)
        goal("publish many in Producer.batch(), a second", self.median("ours, prefork", "many_rate"), 10_000)
        goal("publish many with send_many, a second", self.median("ours, prefork", "more_rate"), 10_000)
        ratio = self.median("ours, prefork", "one_cpu_us") / self.median(
            "Celery tuned, prefork", "one_cpu_us"
        )
        goal("CPU of one .delay(), x tuned Celery's", ratio, 0.5, at_most=True)
        for pool in ("8 threads", "2 solo", "prefork"):
            goal(f"start on {pool}, p50 in ms", self.wait_ms(f"ours, {pool}", 0.5), 2, at_most=True)
        return "\n".join(lines)

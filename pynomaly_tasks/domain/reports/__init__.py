"""Reports on what jobs found: one HTML file, JSON and CSV."""

from pynomaly_tasks.domain.reports.build import Report, Source, build_report

__all__ = ["Report", "Source", "build_report"]

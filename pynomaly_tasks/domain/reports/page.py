"""The HTML file: one page, no script, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pynomaly_tasks.domain.reports.charts import close_ups, heat_map, histogram
from pynomaly_tasks.domain.reports.detection_section import BAR_WIDTH
from pynomaly_tasks.domain.reports.words import NOTHING, clean, cut

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the page shows."""

    title: str
    written_at: str
    finished_at: str
    sections: Sequence[Any]
    is_shortened: bool  #: some of it was left to the other two files


def render(page: Page) -> str:
    """The page as HTML. Every value is cleaned of invisible characters, and escaped."""
    environment, style, policy = _prepared()
    return environment.get_template("report.html.jinja").render(page=page, style=style, policy=policy)


@lru_cache(maxsize=1)
def _prepared() -> tuple[Environment, Markup, str]:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["cut"] = lambda value, n: cut(str(value), n)
    environment.globals.update(
        bar_width=BAR_WIDTH,
        histogram_size=(histogram.WIDTH, histogram.HEIGHT),
        close_up_size=(close_ups.WIDTH, close_ups.HEIGHT),
        cell_size=heat_map.CELL,
    )
    css = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    # The only style is ours, by its hash; style attributes, scripts, images, frames and forms are off.
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return environment, Markup(css), policy


def _clean(value: Any) -> Any:
    """Other people's text without its invisible characters; our own markup as it is."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return clean(value)
    return NOTHING if value is None else value

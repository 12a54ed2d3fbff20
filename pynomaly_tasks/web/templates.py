"""Pages as HTML, and the filters that show values to people."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
STATIC = HERE / "static"


def page(request: Request, name: str, status: int = 200, /, **values: Any) -> HTMLResponse:
    """The page of that name. A GET answered with 200 is complete; every value is escaped."""
    template = _environment().get_template(name)
    html = template.render(request=request, asks_for_key=request.app.state.gatekeeper.asks_for_key, **values)
    return HTMLResponse(html, status)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        plain=plain, number=number, size=size, ago=ago, seconds=seconds, iso=iso, words=words, compact=compact
    )
    environment.globals["static"] = static_url
    return environment


@lru_cache(maxsize=64)
def static_url(name: str) -> str:
    """Address of a static file, with its age, so that a browser may keep it until it changes."""
    return f"/static/{name}?v={int((STATIC / name).stat().st_mtime)}"


def number(value: object) -> str:
    """A value as people read it.

    >>> number(1234567), number(0.000123456), number(3.0), number(None), number("x")
    ('1,234,567', '0.0001235', '3', '-', 'x')
    """
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}" if abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,.2f}" if 1_000 <= abs(value) < 1e15 else f"{value:.4g}"


def plain(value: object) -> str:
    """A value as a form's field takes it.

    >>> plain(0.0), plain(1e-9), plain(50_000), plain(None)
    ('0', '1e-09', '50000', '')
    """
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def size(n_bytes: int) -> str:
    """A file size.

    >>> size(900), size(20_000), size(5 * 2**30)
    ('900 B', '19.5 KiB', '5.0 GiB')
    """
    if n_bytes < 1024:
        return f"{n_bytes} B"
    amount = float(n_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1024 or unit == "TiB":
            break
    return f"{amount:.1f} {unit}"


def seconds(value: float | None) -> str:
    """A duration.

    >>> seconds(0.0421), seconds(12.34), seconds(192), seconds(7300), seconds(None)
    ('42 ms', '12.3 s', '3 min 12 s', '2 h 1 min', '-')
    """
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1_000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def iso(value: datetime | None) -> str:
    """An instant, for a `<time>` element."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds") if value else ""


def ago(value: datetime | None, now: datetime | None = None) -> str:
    """How long before now; static/app.js keeps it up to date.

    >>> start = datetime(2026, 1, 1, tzinfo=UTC)
    >>> [ago(start, datetime.fromtimestamp(start.timestamp() + s, UTC)) for s in (3, 200, 7300, 90000)]
    ['just now', '3 min ago', '2 h ago', '1 d ago']
    """
    if value is None:
        return "-"
    elapsed_s = ((now or datetime.now(UTC)) - value).total_seconds()
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if elapsed_s >= unit_s:
            return f"{int(elapsed_s // unit_s)} {unit} ago"
    return "just now"


def words(name: str) -> str:
    """A name of ours as words.

    >>> words("isolation_forest")
    'isolation forest'
    """
    return name.replace("_", " ")


def compact(value: object, limit: int = 80) -> str:
    """A value in one short line."""
    text = " ".join(number(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"

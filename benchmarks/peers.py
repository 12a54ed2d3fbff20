"""The peers that benchmarks compare with: `make bench` installs them, at the versions of requirements-bench.lock."""

from __future__ import annotations

import importlib.util


def require(*modules: str) -> None:
    """Exit with what to do where one is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"missing in this environment: {', '.join(missing)}; run `scripts/install requirements-bench.lock`, "
            "as `make bench` does"
        )

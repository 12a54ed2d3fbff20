"""Which releases of the numerical libraries did the work."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = ("pynomaly-tasks", "numpy", "scipy", "scikit-learn", "statsmodels", "pyarrow", "duckdb", "pyod")


def versions() -> dict[str, str]:
    """Name to version of those that are installed, and of Python."""
    import platform

    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed did none of the work
    return found

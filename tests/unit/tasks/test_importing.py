"""Importing a task costs little and does nothing; its first use makes it, once."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Run with warnings as errors, in a process that has settings which are wrong.
IMPORT = """
import sys
from pynomaly_tasks import detect_anomalies, profile_dataset, cleanup
loaded = {"sqlalchemy", "structlog", "redis", "numpy", "sklearn", "duckdb", "pyarrow", "pydantic_settings"} & set(sys.modules)
assert not loaded, loaded
"""
USE = """
from pynomaly_tasks import detect_anomalies, app
signature = detect_anomalies.s("data.csv")
assert signature.task == "pynomaly.tasks.detect_anomalies"
assert app.tasks["pynomaly.tasks.detect_anomalies"].name == detect_anomalies.name
from pynomaly_tasks.tasks.worker import TASK_MODULES
assert {name for name in app.tasks if name.startswith("pynomaly.tasks.")} >= {
    "pynomaly.tasks." + name
    for name in ("detect_anomalies", "detect_ensemble", "profile_dataset", "generate_report", "send_notification",
                 "cleanup", "rescue", "monitor_health")
}
"""


def _run(code: str, **env: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.large
def test_import_reads_no_setting_and_loads_no_heavy_library() -> None:
    _run(IMPORT, PYNOMALY_JOBS__LEASE_S="this is no number")


@pytest.mark.large
def test_first_use_makes_each_task_once() -> None:
    _run(USE)


@pytest.mark.large
def test_every_task_is_known_whichever_is_used_first() -> None:
    _run("from pynomaly_tasks import profile_dataset as t; t.name\n" + USE)

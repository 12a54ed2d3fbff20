"""A pytest plugin for other projects' suites: our transport in place of kombu's, and outcomes as JSON.

`support.upstream` loads it into the interpreter that runs such a suite; the suite stays as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

_outcomes: dict[str, dict[str, Any]] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Give each process a Redis, and put our classes where kombu's are looked up, before all else is read."""
    ports = os.environ["UPSTREAM_REDIS_PORTS"].split()
    port = ports[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])]
    os.environ.update(
        # kombu's suite asks for the first two, Celery's for the others.
        REDIS_HOST="127.0.0.1",
        REDIS_6379_TCP=port,
        REDIS_PORT=port,
        TEST_BROKER=f"redis://127.0.0.1:{port}/0",
        TEST_BACKEND=f"redis://127.0.0.1:{port}/0",
    )
    if os.environ["UPSTREAM_TRANSPORT"] == "ours":
        _replace()


def pytest_configure(config: pytest.Config) -> None:
    """Let the suite's own marks be."""
    for mark in ("env", "flaky", "replace_module_value", "ensured_modules", "masked_modules"):
        config.addinivalue_line("markers", f"{mark}: of the suite itself")


def _replace() -> None:
    from kombu.transport import redis as kombu_redis

    from pynomaly_tasks import transport
    from pynomaly_tasks.transport import poller, publishing, qos

    kombu_redis.Channel = transport.Channel
    kombu_redis.SentinelChannel = transport.SentinelChannel
    kombu_redis.Transport = transport.Transport
    kombu_redis.SentinelTransport = transport.SentinelTransport
    kombu_redis.QoS = qos.QoS
    kombu_redis.MultiChannelPoller = poller.Poller
    kombu_redis.PublishBatch = publishing.PublishBatch
    if Path.cwd().name.startswith("celery-"):
        from celery import Celery

        Celery.amqp_cls = "pynomaly_tasks.transport.amqp:AMQP"
        Celery.task_cls = "pynomaly_tasks.transport.task:Task"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note what was collected, so that a test that never ends is not forgotten."""
    for item in items:
        if item.get_closest_marker("flaky") is not None:
            item.user_properties.append(("flaky", True))
    _collected([item.nodeid for item in items])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids: Sequence[str]) -> None:
    """The same, in the process that hands the tests out."""
    _collected(ids)


def _collected(ids: Sequence[str]) -> None:
    for nodeid in ids:
        _outcomes.setdefault(nodeid, {"outcome": "not run", "flaky": False, "why": ""})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The worst of setup, call, subtests and teardown counts."""
    outcome = _outcomes.setdefault(report.nodeid, {"outcome": "not run", "flaky": False, "why": ""})
    outcome["flaky"] = outcome["flaky"] or ("flaky", True) in report.user_properties
    if report.failed and outcome["outcome"] != "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(crash.message if crash else report.longrepr).splitlines()
        outcome.update(outcome="failed", why=f"{report.when}: {why[0] if why else ''}"[:300])
    elif outcome["outcome"] == "not run" and (report.when == "call" or report.skipped):
        outcome["outcome"] = report.outcome
        if report.skipped:
            is_where = isinstance(report.longrepr, tuple)
            outcome["why"] = report.longrepr[2] if is_where else getattr(report, "wasxfail", "")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        path = Path(os.environ["UPSTREAM_REPORT"])
        path.with_suffix(".new").write_text(json.dumps(_outcomes), "utf-8")
        path.with_suffix(".new").replace(path)

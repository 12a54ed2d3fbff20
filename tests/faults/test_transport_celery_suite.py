"""Celery's own tests, unmodified, with our transport in place of kombu's, and our `AMQP` and `Task` of Celery's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.upstream import Suite, exclusions_in

EXCLUSIONS = exclusions_in(Path(__file__).with_name("celery_exclusions.toml"))

#: Files of a folder in t, and how many processes share them: most of the integration tests' time is waiting, and
#: the unit tests need their order.
PARTS = {
    "canvas": ("integration", ["canvas"], 6),
    "tasks": ("integration", ["tasks", "group_chains", "inspect", "worker", "serialization"], 4),
    "connections": (
        "integration",
        ["redis_backend", "beat", "connection_recovery", "request_backend_down"],
        1,
    ),
    "calls": ("unit/tasks", ["tasks", "canvas", "chord", "context", "result", "stamping", "trace"], 1),
    "apps": ("unit/app", ["app", "amqp", "amqp_callback_publish", "builtins", "celery", "routes"], 1),
}


@pytest.fixture
def suite(programs: Programs, start_redis: Callable[..., RedisServer]) -> Suite:
    return Suite("celery", programs, start_redis, EXCLUSIONS, timeout_s=900)


@pytest.mark.slow
@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("part", PARTS)
def test_celerys_tests_pass_but_for_what_is_excluded(suite: Suite, part: str) -> None:
    folder, names, n_processes = PARTS[part]

    print(suite.check([f"t/{folder}/test_{name}.py" for name in names], n_processes=n_processes))


@pytest.mark.slow
@pytest.mark.timeout(1_000)
def test_what_is_excluded_of_celerys_tests_fails_on_kombus_own_transport_where_it_is_said(
    suite: Suite,
) -> None:
    suite.check_exclusions_on_kombus_own()

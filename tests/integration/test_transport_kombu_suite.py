"""kombu's own tests of its Redis transport, unmodified, with our classes in place of kombu's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.upstream import Suite, exclusions_in

EXCLUSIONS = exclusions_in(Path(__file__).with_name("kombu_exclusions.toml"))


@pytest.fixture
def suite(programs: Programs, start_redis: Callable[..., RedisServer]) -> Suite:
    return Suite("kombu", programs, start_redis, EXCLUSIONS)


def test_kombus_unit_tests_pass_but_for_what_names_a_replaced_part(suite: Suite) -> None:
    print(suite.check(["t/unit/transport/test_redis.py"]))


@pytest.mark.slow
def test_kombus_tests_on_a_real_redis_pass_but_for_what_is_done_otherwise(suite: Suite) -> None:
    files = ["t/integration/test_redis.py", "t/integration/test_redis_brpop_qos.py"]

    print(suite.check(files, n_processes=4))


@pytest.mark.slow
def test_every_test_that_is_excluded_passes_on_kombus_own_transport(suite: Suite) -> None:
    suite.check_exclusions_on_kombus_own()

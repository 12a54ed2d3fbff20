"""A cancel reaches the worker at once by the broker, and without the broker by the store."""

from __future__ import annotations

import pytest

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.jobs import EngineStarter

#: Far beyond what any wait of a test allows: what happens does not happen because of this.
NEVER_S = "3600"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_worker_that_hardly_ever_looks_hears_of_a_cancel(
    start_engine: EngineStarter, own_redis: RedisServer, pool: str
) -> None:
    env = {"PYNOMALY_JOBS__CANCEL_POLL_S": NEVER_S, "PYNOMALY_JOBS__LEASE_S": NEVER_S}
    engine = start_engine(own_redis.url, None, env)
    engine.worker(pool=pool)
    running = engine.submit(lasts_s=600.0, checkpoints=False)
    following = engine.submit()
    engine.wait_for_start(running)

    engine.platform.cancel(running.id)

    assert engine.wait_for(following).state is JobState.SUCCEEDED
    assert engine.wait_for(running).state is JobState.CANCELLED
    assert engine.effects.list("end", running.id) == []


def test_cancel_while_the_broker_is_away_frees_the_slot(
    start_engine: EngineStarter, own_redis: RedisServer
) -> None:
    engine = start_engine(own_redis.url)
    engine.worker()
    running = engine.submit(lasts_s=600.0, checkpoints=False)
    following = engine.submit()
    engine.wait_for_start(running)
    own_redis.kill()

    engine.platform.cancel(running.id)

    assert engine.wait_for(running).state is JobState.CANCELLED
    own_redis.start()
    assert engine.wait_for(following).state is JobState.SUCCEEDED

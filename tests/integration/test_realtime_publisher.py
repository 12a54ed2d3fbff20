import multiprocessing
import time
from types import MappingProxyType

import orjson
import pytest
from structlog.testing import capture_logs

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.realtime.publisher import StreamPublisher
from pynomaly_tasks.realtime.streams import ACTIVITY_STREAM, DASHBOARD_STREAM
from support.waiting import wait_until

UPDATE = {"type": "job", "job_id": "a", "state": "running"}


def streams_url(server):
    return f"{server.url}/3"


@pytest.fixture
def publisher(own_redis):
    publisher = StreamPublisher(streams_url(own_redis))
    yield publisher
    publisher.close()


@pytest.fixture
def streams(own_redis):
    with own_redis.client(3) as client:
        yield client


def published(streams, stream=DASHBOARD_STREAM):
    return [orjson.loads(fields[b"data"]) for _, fields in streams.xrange(stream)]


def test_an_update_becomes_one_entry_of_json(publisher, streams):
    publisher.publish({**UPDATE, "summary": MappingProxyType({"anomalies_found": 3})})
    publisher.publish(UPDATE, stream=ACTIVITY_STREAM)

    assert published(streams) == [{**UPDATE, "summary": {"anomalies_found": 3}}]
    assert published(streams, ACTIVITY_STREAM) == [UPDATE]


def test_the_stream_keeps_about_a_thousand_entries(publisher, streams):
    for number in range(1_500):
        publisher.publish({**UPDATE, "attempt": number})

    kept = published(streams)
    assert 1_000 <= len(kept) < 1_200
    assert kept[-1]["attempt"] == 1_499


def test_a_value_that_is_no_json_is_the_callers_mistake(publisher):
    with pytest.raises(TypeError):
        publisher.publish({"value": object()})


def test_a_redis_that_is_down_neither_fails_nor_delays_the_job():
    publisher = StreamPublisher(f"redis://127.0.0.1:{find_free_port()}/3")

    with capture_logs() as logs:
        started = time.perf_counter()
        for _ in range(1_000):
            publisher.publish(UPDATE)
        elapsed_s = time.perf_counter() - started

    assert elapsed_s < 0.3
    assert [entry["event"] for entry in logs] == ["live_updates_dropped"]


def test_a_redis_that_is_silent_costs_one_short_timeout_and_then_nothing(own_redis, tcp_proxy):
    proxy = tcp_proxy(own_redis.port)
    proxy.stall()
    publisher = StreamPublisher(f"redis://127.0.0.1:{proxy.port}/3", timeout_s=0.2)

    started = time.perf_counter()
    for _ in range(1_000):
        publisher.publish(UPDATE)
    elapsed_s = time.perf_counter() - started

    assert elapsed_s < 0.6


def test_updates_flow_again_after_a_restart(own_redis, publisher, streams):
    publisher.publish(UPDATE)
    own_redis.kill()
    publisher.publish(UPDATE)
    own_redis.start()

    def arrives():
        publisher.publish({**UPDATE, "state": "succeeded"})
        return published(streams)[-1:] == [{**UPDATE, "state": "succeeded"}]

    wait_until(arrives, 5.0, "an update after the restart", every_s=0.1)


def test_a_forked_child_publishes_over_a_connection_of_its_own(publisher, streams):
    publisher.publish({**UPDATE, "from": "parent"})
    child = multiprocessing.get_context("fork").Process(
        target=publisher.publish, args=({**UPDATE, "from": "child"},)
    )
    child.start()
    child.join(10.0)
    publisher.publish({**UPDATE, "from": "parent again"})

    assert child.exitcode == 0
    assert [update["from"] for update in published(streams)] == ["parent", "child", "parent again"]

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


def progress(number, job_id="a"):
    return lambda: {**UPDATE, "job_id": job_id, "event": "job.progress", "number": number}


def test_progress_is_thinned_out_for_each_job_and_the_latest_gets_through(own_redis, streams):
    publisher = StreamPublisher(streams_url(own_redis), progress_per_s=5.0)
    started = time.monotonic()
    number = 0
    while time.monotonic() - started < 1.0:
        number += 1
        publisher.publish_progress("a", progress(number))
        publisher.publish_progress("b", progress(number, "b"))

    def both_ended():
        ends = {update["job_id"]: update["number"] for update in published(streams)}
        return ends == {"a": number, "b": number}

    wait_until(both_ended, 2.0, "the latest progress of both jobs, though nothing more was said")
    told = [update["number"] for update in published(streams) if update["job_id"] == "a"]
    publisher.close()

    assert 5 <= len(told) <= 7  # at once, then every fifth of a second
    assert told[0] == 1
    assert told == sorted(told)
    assert number > 100


def test_the_latest_progress_comes_before_what_is_told_of_the_end(own_redis, streams):
    publisher = StreamPublisher(streams_url(own_redis), progress_per_s=0.1)
    for number in range(5):
        publisher.publish_progress("a", progress(number))
    publisher.finish_progress("a")
    publisher.publish({**UPDATE, "number": "end"})
    publisher.finish_progress("a")
    publisher.close()

    assert [update["number"] for update in published(streams)] == [0, 4, "end"]


def test_progress_that_is_not_sent_is_not_even_made(publisher):
    made = []
    for number in range(1_000):
        publisher.publish_progress("a", lambda number=number: made.append(number) or UPDATE)

    assert len(made) < 10


def test_a_forked_child_thins_out_its_own_progress(streams, publisher):
    publisher.publish_progress("a", progress(0))
    publisher.publish_progress("a", progress(1))

    def work():
        publisher.publish_progress("a", progress("child"))
        publisher.publish_progress("a", progress("child's end"))
        publisher.finish_progress("a")

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(10.0)
    publisher.finish_progress("a")

    assert child.exitcode == 0
    numbers = [update["number"] for update in published(streams)]
    assert sorted(map(str, numbers)) == ["0", "1", "child", "child's end"]
    assert numbers.index("child") < numbers.index("child's end")

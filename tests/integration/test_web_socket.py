"""Live updates over WebSocket from a real web process."""

import pytest

from pynomaly_tasks.realtime.publisher import StreamPublisher
from pynomaly_tasks.realtime.streams import ACTIVITY_STREAM, HEALTH_STREAM, NOTIFICATIONS_STREAM
from support.live_clients import live_socket
from support.waiting import wait_until
from support.web_server import running_web, web_env


@pytest.fixture
def web(own_redis, programs, tmp_path):
    (tmp_path / "data" / "uploads").mkdir(parents=True)
    (tmp_path / "data" / "uploads" / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    with running_web(programs, web_env(own_redis.url, tmp_path / "data")) as web:
        wait_until(lambda: web.client.get("/readyz").status_code == 200, 10.0, "the neighbours")
        yield web


@pytest.fixture
def publisher(own_redis):
    publisher = StreamPublisher(f"{own_redis.url}/3")
    yield publisher
    publisher.close()


def publish(publisher, number, job_id="a", **more):
    publisher.publish({"type": "job", "job_id": job_id, "state": "running", "number": number, **more})


def numbers(updates):
    return [update["number"] for update in updates]


def test_a_client_that_subscribed_is_told_what_happens(web, publisher):
    with live_socket(web) as socket:
        acknowledged = socket.subscribe("everything")
        publish(publisher, 1)
        update = socket.take("update")

    assert acknowledged["name"] == "everything"
    assert update["stream"] == "dashboard"
    assert update["data"]["number"] == 1
    assert update["id"] != acknowledged["id"]


def test_one_connection_follows_all_four_streams(web, publisher):
    with live_socket(web) as socket:
        socket.subscribe()
        publish(publisher, 1)
        for stream in (NOTIFICATIONS_STREAM, HEALTH_STREAM, ACTIVITY_STREAM):
            publisher.publish({"type": "x"}, stream=stream)
        streams = [socket.take("update")["stream"] for _ in range(4)]

    assert streams == ["dashboard", "notifications", "health", "activity"]

"""Live updates over HTTP from a real web process."""

import json
import time
from contextlib import contextmanager

import pytest

from pynomaly_tasks.realtime.publisher import StreamPublisher
from support.waiting import wait_until
from support.web_server import running_web, web_env

EVENTS = "/api/v1/events"


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


def publish(publisher, attempt, job_id="a"):
    publisher.publish({"type": "job", "job_id": job_id, "state": "running", "attempt": attempt})


class Events:
    """The events of one response, parsed as a browser does."""

    def __init__(self, response):
        self._lines = response.iter_lines()
        self.headers = response.headers

    def take(self):
        event = {"event": "message"}
        for line in self._lines:
            if not line and len(event) > 1:
                return event
            name, _, value = line.partition(": ")
            if name in {"event", "data", "id", "retry"}:
                event[name] = value
        raise AssertionError("the events ended")

    def take_attempts(self, n):
        return [json.loads(self.take()["data"])["attempt"] for _ in range(n)]


@contextmanager
def events_of(web, headers=None, **params):
    with web.client.stream("GET", EVENTS, params=params, headers=headers) as response:
        assert response.status_code == 200
        events = Events(response)
        assert events.take()["retry"] == "1000"
        yield events


def test_a_submitted_job_is_told_to_who_watches(web):
    with events_of(web) as events:
        job = web.client.post(
            "/api/v1/jobs", json={"kind": "profile_dataset", "request": {"dataset": "numbers.csv"}}
        )
        event = events.take()

    told = json.loads(event["data"])
    assert event["event"] == "update"
    assert (told["job_id"], told["state"]) == (job.json()["id"], "queued")
    assert events.headers["content-type"].startswith("text/event-stream")


def test_a_browser_that_reconnects_gets_what_it_missed(web, publisher):
    with events_of(web, job_id="a") as events:
        publish(publisher, 1)
        last_id = events.take()["id"]
    publish(publisher, 2)
    publish(publisher, 3, job_id="another")
    publish(publisher, 4)

    with events_of(web, {"Last-Event-ID": last_id}, job_id="a") as events:
        missed = events.take_attempts(2)

    assert missed == [2, 4]


def test_a_browser_that_was_away_too_long_is_told_of_the_gap(web, publisher):
    publish(publisher, 1)

    with events_of(web, {"Last-Event-ID": "1-0"}) as events:
        first = events.take()

    assert first["event"] == "gap"
    assert "no longer holds" in json.loads(first["data"])["reason"]


def test_a_last_event_id_that_is_none_is_refused(web):
    response = web.client.get(EVENTS, headers={"Last-Event-ID": "yesterday"})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "Last-Event-ID"


def test_watching_goes_on_through_a_restart_of_redis(web, own_redis, publisher):
    with events_of(web) as events:
        publish(publisher, 1)
        before = events.take_attempts(1)
        own_redis.stop()
        own_redis.start()
        again = StreamPublisher(f"{own_redis.url}/3")
        publish(again, 2)
        again.close()
        after = events.take_attempts(1)

    assert before + after == [1, 2]


def test_the_process_ends_at_once_though_people_watch(web):
    with events_of(web), events_of(web, job_id="a"):
        started = time.monotonic()
        web.program.stop(10.0)
        elapsed_s = time.monotonic() - started

    assert web.program.returncode == 0
    assert elapsed_s < 3.0

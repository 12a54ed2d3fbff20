"""Live updates over HTTP from a real web process."""

import json
import time

import pytest

from pynomaly_tasks.realtime.publisher import StreamPublisher
from pynomaly_tasks.realtime.streams import HEALTH_STREAM
from support.live_clients import live_events
from support.waiting import wait_until
from support.web_server import running_web, web_env

LIVE = "/live"


@pytest.fixture
def env(own_redis, tmp_path):
    (tmp_path / "data" / "uploads").mkdir(parents=True)
    (tmp_path / "data" / "uploads" / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    return web_env(own_redis.url, tmp_path / "data")


@pytest.fixture
def web(programs, env):
    with running_web(programs, env) as web:
        wait_until(lambda: web.client.get("/readyz").status_code == 200, 10.0, "the neighbours")
        yield web


@pytest.fixture
def publisher(own_redis):
    publisher = StreamPublisher(f"{own_redis.url}/3")
    yield publisher
    publisher.close()


def publish(publisher, attempt, job_id="a", **more):
    update = {"type": "job", "job_id": job_id, "state": "running", "attempt": attempt}
    publisher.publish({**update, **more})


def attempts(events, n):
    return [update["attempt"] for update in events.take_updates(n)]


def submit(web):
    request = {"kind": "profile_dataset", "request": {"dataset": "numbers.csv"}, "tags": ["mine"]}
    return web.client.post("/api/v1/jobs", json=request).json()


def test_an_update_is_an_event_of_the_one_stream(web, publisher):
    with live_events(web) as events:
        publish(publisher, 1)
        event = events.take("update")

    assert json.loads(event["data"])["attempt"] == 1
    assert events.retry == "1000"
    assert events.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("filters", "passed"),
    [
        ({"job_id": "a"}, [1]),
        ({"job_id": ["a", "b"]}, [1, 2]),
        ({"tag": "nightly"}, [1, 3]),
        ({"kind": "profile_dataset"}, [2, 3]),
        ({"dataset": "x.csv", "kind": "profile_dataset"}, [3]),
        ({"event": "job.completed"}, [2]),
        ({"stream": "health"}, [4]),
        ({"stream": ["health", "dashboard"], "tag": "nightly"}, [1, 3]),
    ],
)
def test_a_client_names_what_it_wants(web, publisher, filters, passed):
    with live_events(web, **filters) as events, live_events(web) as all_events:
        publish(publisher, 1, job_id="a", tags=["nightly", "x"], dataset="x.csv")
        publish(publisher, 2, job_id="b", kind="profile_dataset", event="job.completed")
        publish(publisher, 3, job_id="c", kind="profile_dataset", tags=["nightly"], dataset="x.csv")
        publisher.publish({"type": "health", "attempt": 4}, stream=HEALTH_STREAM)
        attempts(all_events, 4)
        taken = attempts(events, len(passed))

    assert taken == passed


def test_an_unknown_filter_or_stream_is_refused_naming_it(web):
    unknown = web.client.get(LIVE, params={"colour": "red"})
    bad_stream = web.client.get(LIVE, params={"stream": "weather"})
    too_many = web.client.get(LIVE, params={"job_id": [str(n) for n in range(51)]})

    assert [answer.status_code for answer in (unknown, bad_stream, too_many)] == [422] * 3
    assert unknown.json()["errors"][0]["field"] == "colour"
    assert bad_stream.json()["errors"][0]["field"].startswith("stream")
    assert "'dashboard'" in bad_stream.json()["detail"]
    assert "50" in too_many.json()["detail"]


def test_a_browser_that_reconnects_gets_what_it_missed(web, publisher):
    with live_events(web, job_id="a") as events:
        publish(publisher, 1)
        events.take()
        last_id = events.last_id
    publish(publisher, 2)
    publish(publisher, 3, job_id="another")
    publish(publisher, 4)

    with live_events(web, {"Last-Event-ID": last_id}, job_id="a") as events:
        missed = attempts(events, 2)

    assert missed == [2, 4]


def test_a_browser_that_was_away_too_long_is_told_and_gets_the_present_state(
    web, programs, env, own_redis, publisher
):
    job = submit(web)
    publish(publisher, 1)
    with live_events(web, tag="mine") as events:
        last_id = events.last_id
    with own_redis.client(3) as redis:
        redis.flushdb()
    web.program.stop(10.0)

    with (
        running_web(programs, env) as anew,
        live_events(anew, {"Last-Event-ID": last_id}, tag="mine") as events,
    ):
        gap = events.take("gap")
        snapshot = json.loads(events.take("snapshot")["data"])

    assert json.loads(gap["data"])["streams"] == ["dashboard"]
    assert snapshot["is_complete"] is True
    assert [(one["job_id"], one["state"]) for one in snapshot["jobs"]] == [(job["id"], "queued")]


def test_a_quiet_client_gets_comments_whose_id_keeps_it_up_to_date(own_redis, programs, env, publisher):
    with running_web(programs, {**env, "PYNOMALY_LIVE__HEARTBEAT_S": "0.1"}) as web:
        with live_events(web, job_id="mine") as events:
            first = events.last_id
            publish(publisher, 1, job_id="another")
            while events.last_id == first:
                events.take_block()
        with live_events(web, {"Last-Event-ID": events.last_id}) as again:
            publish(publisher, 2)
            taken = attempts(again, 1)

    assert set(events.comments) == {"watching", "heartbeat"}
    assert taken == [2]


def test_a_last_event_id_that_is_none_is_refused(web):
    response = web.client.get(LIVE, headers={"Last-Event-ID": "yesterday"})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "Last-Event-ID"


def test_watching_goes_on_through_a_restart_of_redis_which_is_told(web, own_redis, publisher):
    with live_events(web) as events:
        publish(publisher, 1)
        before = attempts(events, 1)
        own_redis.stop()
        events.take("away")
        with live_events(web) as late:
            late.take("away")
            own_redis.start()
            events.take("back")
            late.take("back")
        again = StreamPublisher(f"{own_redis.url}/3")
        publish(again, 2)
        again.close()
        after = attempts(events, 1)

    assert before + after == [1, 2]


def test_a_page_elsewhere_cannot_hold_a_place(web):
    elsewhere = web.client.get(LIVE, headers={"Origin": "https://evil.example"})
    cross_site = web.client.get(LIVE, headers={"Sec-Fetch-Site": "cross-site"})

    assert [elsewhere.status_code, cross_site.status_code] == [403, 403]


def test_clients_beyond_the_limit_are_asked_to_come_later(programs, env):
    with running_web(programs, {**env, "PYNOMALY_LIVE__MAX_CLIENTS": "1"}) as web:
        with live_events(web):
            refused = web.client.get(LIVE)
        wait_until(lambda: web.client.head("/healthz") is not None, 1.0, "the server")
        with live_events(web):
            pass

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


def test_the_process_ends_at_once_though_people_watch(web):
    with live_events(web), live_events(web, job_id="a"):
        started = time.monotonic()
        web.program.stop(10.0)
        elapsed_s = time.monotonic() - started

    assert web.program.returncode == 0
    assert elapsed_s < 3.0

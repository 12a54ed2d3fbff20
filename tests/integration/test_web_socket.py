"""Live updates over WebSocket from a real web process."""

import json
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.realtime.publisher import StreamPublisher
from pynomaly_tasks.realtime.streams import (
    ACTIVITY_STREAM,
    DASHBOARD_STREAM,
    HEALTH_STREAM,
    NOTIFICATIONS_STREAM,
)
from pynomaly_tasks.web.snapshots import MAX_JOBS
from support.jobs import settings_from
from support.live_clients import live_socket, open_socket
from support.waiting import wait_until
from support.web_server import running_web, web_env

KEY = {"WEB__API_KEY": "s3cret"}
BY_KEY = {"X-API-Key": "s3cret"}


@pytest.fixture
def env(own_redis, tmp_path):
    (tmp_path / "data" / "uploads").mkdir(parents=True)
    (tmp_path / "data" / "uploads" / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    return web_env(own_redis.url, tmp_path / "data")


@pytest.fixture
def start(programs, env):
    """Starts a web process with these settings."""
    with ExitStack() as stack:

        def start(**settings):
            more = {f"PYNOMALY_{name}": value for name, value in settings.items()}
            web = stack.enter_context(running_web(programs, {**env, **more}))
            wait_until(lambda: web.client.get("/readyz").status_code == 200, 10.0, "the neighbours")
            return web

        yield start


@pytest.fixture
def web(start):
    return start()


@pytest.fixture
def publisher(own_redis):
    publisher = StreamPublisher(f"{own_redis.url}/3")
    yield publisher
    publisher.close()


def publish(publisher, number, job_id="a", **more):
    publisher.publish({"type": "job", "job_id": job_id, "state": "running", "number": number, **more})


def numbers(updates):
    return [update["number"] for update in updates]


def submit(web, **options):
    request = {"kind": "profile_dataset", "request": {"dataset": "numbers.csv"}, **options}
    return web.client.post("/api/v1/jobs", json=request).json()["id"]


def refusal_of(web, headers=None, **options):
    """The status of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as refused, open_socket(web, headers, **options):
        pass
    return refused.value.response


# --- watching -------------------------------------------------------------------------------


def test_a_client_that_subscribed_is_told_what_happens(web, publisher):
    with live_socket(web) as client:
        acknowledged = client.subscribe("everything")
        publish(publisher, 1)
        update = client.take("update")

    assert acknowledged["name"] == "everything"
    assert update["stream"] == "dashboard"
    assert update["data"]["number"] == 1
    assert update["id"] != acknowledged["id"]


def test_one_connection_follows_all_four_streams(web, publisher):
    with live_socket(web) as client:
        client.subscribe()
        publish(publisher, 1)
        for stream in (NOTIFICATIONS_STREAM, HEALTH_STREAM, ACTIVITY_STREAM):
            publisher.publish({"type": "x"}, stream=stream)
        streams = {client.take("update")["stream"] for _ in range(4)}

    assert streams == {"dashboard", "notifications", "health", "activity"}


def test_a_client_of_several_filters_gets_what_passes_any_of_them_once(web, publisher):
    with live_socket(web) as client:
        client.subscribe("mine", filter={"job_id": ["a", "b"]})
        client.subscribe("nightly", filter={"tag": "nightly", "kind": "profile_dataset"})
        client.subscribe("health", filter={"stream": "health"})
        publish(publisher, 1, "a", tags=["nightly"], kind="profile_dataset")
        publish(publisher, 2, "c", tags=["nightly"], kind="detect_anomalies")
        publish(publisher, 3, "c", tags=["nightly"], kind="profile_dataset")
        publisher.publish({"type": "health", "number": 4}, stream=HEALTH_STREAM)
        publish(publisher, 5, "b")
        taken = numbers(client.take_updates(4))

    assert [number for number in taken if number != 4] == [1, 3, 5]
    assert sorted(taken) == [1, 3, 4, 5]


def test_a_client_that_unsubscribed_is_told_no_more_of_it(web, publisher):
    with live_socket(web) as client:
        client.subscribe("a", filter={"job_id": "a"})
        client.subscribe("b", filter={"job_id": "b"})
        client.say(type="unsubscribe", name="a")
        client.take("unsubscribed")
        publish(publisher, 1, "a")
        publish(publisher, 2, "b")
        taken = numbers(client.take_updates(1))
        client.say(type="unsubscribe", name="a")
        error = client.take("error")

    assert taken == [2]
    assert (error["code"], error["field"]) == ("unknown_subscription", "name")


def test_a_ping_is_answered_and_a_quiet_connection_gets_signs_of_life(start):
    web = start(LIVE__HEARTBEAT_S="0.1")
    with live_socket(web) as client:
        client.say(type="ping")
        client.take("pong")
        beats = [client.take("heartbeat") for _ in range(2)]

    assert [beat["id"] for beat in beats] == ["0.0.0.0"] * 2


def test_a_client_may_begin_with_the_present_state(web, publisher):
    job_id = submit(web, tags=["mine"])
    other = submit(web, tags=["other"])
    with live_socket(web) as client:
        client.subscribe("mine", filter={"tag": "mine"}, snapshot=True)
        one = client.take("snapshot")
        client.subscribe("jobs", filter={"job_id": [other, "none"]}, snapshot=True)
        both = client.take("snapshot")
        publish(publisher, 1, tags=["mine"])
        update = client.take("update")

    assert [(job["job_id"], job["state"]) for job in one["jobs"]] == [(job_id, "queued")]
    assert [job["job_id"] for job in both["jobs"]] == [other, job_id]
    assert one["is_complete"] is both["is_complete"] is True
    assert update["data"]["number"] == 1


# --- coming back ----------------------------------------------------------------------------


def test_a_client_that_was_away_for_ten_seconds_misses_nothing_and_sees_nothing_twice(web, publisher):
    stop = threading.Event()
    n_published = 0

    def go_on_publishing():
        nonlocal n_published
        while not stop.wait(0.01):
            stream = (DASHBOARD_STREAM, NOTIFICATIONS_STREAM, ACTIVITY_STREAM)[n_published % 3]
            update = {"type": "x", "job_id": f"job-{n_published % 7}", "number": n_published}
            publisher.publish(update, stream=stream)
            n_published += 1

    publishing = threading.Thread(target=go_on_publishing)
    seen, last_id = [], None

    def watch(until):
        nonlocal last_id
        with live_socket(web) as client:
            client.subscribe(**({} if last_id is None else {"last_event_id": last_id}))
            if publishing.ident is None:
                publishing.start()
            while not until():
                update = client.take("update")
                last_id = update["id"]
                seen.append(update["data"]["number"])

    try:
        watch(lambda: len(seen) >= 100)
        away_since = time.monotonic()
        wait_until(lambda: time.monotonic() - away_since > 10.0, 15.0, "ten seconds away")
        watch(lambda: len(seen) >= n_published - 5)
        enough = len(seen) + 50
        watch(lambda: len(seen) >= enough)  # and again, at once
    finally:
        stop.set()
        publishing.join(10.0)
    watch(lambda: len(seen) == n_published)

    assert seen == list(range(n_published))
    assert n_published > 300


def test_a_client_comes_back_to_a_process_that_was_started_anew(web, start, publisher):
    with live_socket(web) as client:
        client.subscribe()
        publish(publisher, 1)
        last_id = client.take("update")["id"]
    web.program.stop(10.0)
    publish(publisher, 2)
    publish(publisher, 3)

    with live_socket(start()) as client:
        client.subscribe(last_event_id=last_id)
        publish(publisher, 4)
        taken = numbers(client.take_updates(3))

    assert taken == [2, 3, 4]


def test_a_gap_is_told_and_the_present_state_follows_once(web, start, own_redis, publisher):
    job_id = submit(web)
    publish(publisher, 0)
    with live_socket(web) as client:
        last_id = client.subscribe()["id"]
    for number in range(1, 4):
        publish(publisher, number)
    with own_redis.client(3) as redis:
        redis.xtrim(DASHBOARD_STREAM, maxlen=1, approximate=False)
    web.program.stop(10.0)

    with live_socket(start()) as client:
        client.subscribe(last_event_id=last_id)
        gap = client.take("gap")
        snapshot = client.take("snapshot")
        publish(publisher, 4)
        after = client.take_updates(1)
    with live_socket(start()) as client:
        client.subscribe(last_event_id=gap["id"])
        after_gap = client.take_updates(1)

    assert "no longer holds" in gap["reason"]
    assert gap["streams"] == ["dashboard"]
    assert [job["job_id"] for job in snapshot["jobs"]] == [job_id]
    assert numbers(after) == numbers(after_gap) == [4]


def test_a_snapshot_of_many_jobs_is_bounded_and_says_so(web, env):
    platform = Platform(settings_from(env))
    platform.submit_many("profile_dataset", [{"dataset": "numbers.csv"}] * (MAX_JOBS + 1))
    platform.close()
    with live_socket(web) as client:
        client.subscribe(snapshot=True)
        snapshot = client.take("snapshot")

    assert len(snapshot["jobs"]) == MAX_JOBS
    assert snapshot["is_complete"] is False


def test_clients_are_told_while_redis_is_away_and_go_on_when_it_is_back(web, own_redis, publisher):
    with live_socket(web) as client:
        client.subscribe()
        publish(publisher, 1)
        last_id = client.take("update")["id"]
        own_redis.stop()
        client.take("away")
        with live_socket(web) as late:
            late.take("away")
            late.subscribe(last_event_id=last_id)
            own_redis.start()
            client.take("back")
            late.take("back")
            own = StreamPublisher(f"{own_redis.url}/3")
            publish(own, 2)
            own.close()
            taken = numbers(client.take_updates(1)) + numbers(late.take_updates(1))

    assert taken == [2, 2]


def test_clients_learn_that_the_process_stops_and_it_stops_at_once(web):
    with live_socket(web) as client, live_socket(web) as idle:
        client.subscribe()
        started = time.monotonic()
        web.program.stop(10.0)
        elapsed_s = time.monotonic() - started
        closed = [closing_of(one) for one in (client, idle)]

    assert closed == [1012, 1012]
    assert web.program.returncode == 0
    assert elapsed_s < 3.0


def closing_of(client):
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            client.take()
    return closed.value.rcvd.code


# --- slow clients ---------------------------------------------------------------------------


def test_a_client_that_reads_nothing_is_let_go_and_never_slows_the_others(start, own_redis, publisher):
    web = start(LIVE__MAX_WAITING="100", LIVE__HEARTBEAT_S="60")
    host, port = web.address.removeprefix("http://").split(":")
    padding = "x" * 50_000
    with socket.socket() as stalled, live_socket(web) as quick:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stalled.connect((host, int(port)))
        stalled.sendall(handshake(host, port))
        read_until(stalled, b'"welcome"')
        stalled.sendall(masked_text({"type": "subscribe", "name": "all"}))
        read_until(stalled, b'"subscribed"')
        quick.subscribe()
        latencies_s = []
        for number in range(400):
            started = time.perf_counter()
            publish(publisher, number, f"job-{number}", padding=padding)
            assert quick.take("update")["data"]["number"] == number
            latencies_s.append(time.perf_counter() - started)
        wait_until(
            lambda: "live_client_let_go" in web.program.output(),
            20.0,
            "the end of the one that reads nothing",
        )
        n_bytes_sent = read_to_the_end(stalled)

    assert sorted(latencies_s)[395] < 0.25
    assert n_bytes_sent < 0.9 * 400 * len(padding)


def read_until(stalled, text):
    stalled.settimeout(10.0)
    received = b""
    while text not in received:
        received += stalled.recv(4_096)


def handshake(host, port):
    return (
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def masked_text(message):
    from websockets.frames import Frame, Opcode

    return Frame(Opcode.TEXT, json.dumps(message).encode()).serialize(mask=True)


def read_to_the_end(stalled):
    """Bytes that were on their way when the other side let go."""
    n_bytes = 0
    with suppress(ConnectionResetError):
        while part := stalled.recv(65_536):
            n_bytes += len(part)
    return n_bytes


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        ("not json", "bad_json", ""),
        ('{"type": "subscribe", "name": NaN}', "bad_json", ""),
        ("[]", "invalid", ""),
        ("{}", "unknown_type", "type"),
        ('{"type": "publish"}', "unknown_type", "type"),
        ('{"type": "subscribe"}', "invalid", "name"),
        ('{"type": "subscribe", "name": ""}', "invalid", "name"),
        ('{"type": "subscribe", "name": "a", "colour": 1}', "unknown_field", "colour"),
        ('{"type": "subscribe", "name": "a", "filter": {"colour": "red"}}', "unknown_field", "filter.colour"),
        ('{"type": "subscribe", "name": "a", "filter": {"job_id": 7}}', "invalid", "filter.job_id"),
        ('{"type": "subscribe", "name": "a", "filter": {"job_id": ""}}', "invalid", "filter.job_id.0"),
        ('{"type": "subscribe", "name": "a", "filter": {"stream": "weather"}}', "invalid", "filter.stream.0"),
        ('{"type": "subscribe", "name": "a", "last_event_id": "yesterday"}', "bad_id", "last_event_id"),
        ('{"type": "subscribe", "name": "a", "last_event_id": "z.z.z"}', "bad_id", "last_event_id"),
    ],
)
def test_a_message_that_cannot_be_done_is_answered_with_its_field(shared_web, message, code, field):
    with live_socket(shared_web) as client:
        client.connection.send(message)
        error = client.take("error")
        client.subscribe("a")  # and the connection goes on

    assert (error["code"], error["field"]) == (code, field)
    assert error["message"]


@pytest.fixture(scope="module")
def shared_web(redis_server, tmp_path_factory):
    from support.processes import Programs

    directory = tmp_path_factory.mktemp("web")
    programs = Programs(directory / "programs")
    with running_web(programs, web_env(redis_server.url, directory / "data")) as web:
        yield web
    programs.close()


def test_an_unknown_filter_is_told_which_there_are(shared_web):
    with live_socket(shared_web) as client:
        client.say(type="subscribe", name="a", filter={"colour": "red"})
        message = client.take("error")["message"]

    assert "job_id, dataset, tag, kind, event, stream" in message


def test_ten_thousand_subscriptions_are_refused_and_then_the_client_is(start, publisher):
    web = start(LIVE__MAX_SUBSCRIPTIONS="100")
    with live_socket(web) as client, live_socket(web) as other:
        other.subscribe()
        for number in range(100):
            client.subscribe(str(number), filter={"job_id": str(number)})
        codes = set()
        with pytest.raises(ConnectionClosed) as closed:
            for number in range(100, 10_000):
                client.say(type="subscribe", name=str(number))
                codes.add(client.take("error")["code"])
        publish(publisher, 1)
        others = other.take_updates(1)

    assert codes == {"too_many_subscriptions"}
    assert closed.value.rcvd.code == 1008
    assert numbers(others) == [1]


def test_a_name_is_taken_once_and_only_the_first_subscription_may_resume(shared_web):
    with live_socket(shared_web) as client:
        client.subscribe("a")
        client.say(type="subscribe", name="a")
        taken = client.take("error")
        client.say(type="subscribe", name="b", last_event_id="0.0.0.0")
        late = client.take("error")

    assert (taken["code"], taken["field"]) == ("name_taken", "name")
    assert (late["code"], late["field"]) == ("late_resume", "last_event_id")


def test_a_message_of_one_mebibyte_is_refused_before_it_is_read(shared_web):
    with live_socket(shared_web) as client:
        client.connection.send("x" * 2**20)
        code = closing_of(client)

    assert code == 1009


def test_a_message_in_many_parts_is_held_to_the_same_limit(shared_web):
    with live_socket(shared_web) as client, pytest.raises(ConnectionClosed) as closed:
        client.connection.send(["x" * 1_000] * 1_000)
        client.take()

    assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(("frame", "code"), [(b"\x00\x01", 1003), (b'{"type": "ping"}', 1003)])
def test_a_binary_message_is_refused(shared_web, frame, code):
    with live_socket(shared_web) as client:
        client.connection.send(frame)
        error = client.take("error")
        closed_with = closing_of(client)

    assert error["code"] == "binary"
    assert closed_with == code


# --- who may come in ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "wrong"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Cookie": "pynomaly_session=1.2"}, 401),
        ({"Sec-WebSocket-Protocol": "pynomaly.v1, ticket.1.2"}, 401),
        ({"Origin": "https://evil.example", **BY_KEY}, 403),
        ({"Origin": "null", **BY_KEY}, 403),
    ],
)
def test_without_key_or_from_elsewhere_there_is_no_connection(start, headers, status):
    web = start(**KEY)

    response = refusal_of(web, headers)
    text = web.client.get("/healthz").text + web.program.output()

    assert response.status_code == status
    assert json.loads(response.body)["status"] == status
    assert "s3cret" not in text
    assert "Traceback" not in text


def test_key_cookie_and_ticket_open_a_connection(start, publisher):
    web = start(**KEY, LIVE__ALLOWED_ORIGINS='["https://ops.example.com"]')
    cookie = web.client.post("/login", data={"key": "s3cret"}).headers["set-cookie"].partition(";")[0]
    web.client.cookies.clear()
    without_key = web.client.post("/api/v1/live/tickets")
    ticket = web.client.post("/api/v1/live/tickets", headers=BY_KEY).json()["ticket"]
    opened = []
    for headers, options in [
        (BY_KEY, {}),
        ({"Authorization": "Bearer s3cret"}, {}),
        ({"Cookie": cookie, "Origin": web.address}, {}),
        ({"Origin": "https://ops.example.com"}, {"subprotocols": ["pynomaly.v1", f"ticket.{ticket}"]}),
    ]:
        with live_socket(web, headers, **options) as client:
            client.subscribe()
            opened.append(client.connection.subprotocol)

    assert without_key.status_code == 401
    assert opened == [None, None, None, "pynomaly.v1"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_a_page_elsewhere_cannot_watch_a_server_on_loopback(shared_web, headers, status):
    assert refusal_of(shared_web, headers).status_code == status


def test_a_client_beyond_the_limit_is_asked_to_come_later(start):
    web = start(LIVE__MAX_CLIENTS="1")
    with live_socket(web):
        refused = refusal_of(web)

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


def test_there_is_no_websocket_elsewhere(shared_web):
    assert refusal_of(shared_web, path="/jobs").status_code == 403

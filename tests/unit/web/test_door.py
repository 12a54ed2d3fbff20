import asyncio

import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

from pynomaly_tasks.web.auth import Gatekeeper
from pynomaly_tasks.web.door import Door, DoorRules

RULES = DoorRules(
    allowed_hosts=frozenset({"localhost"}),
    max_body_bytes=100,
    max_upload_bytes=1_000,
    upload_path="/upload",
    send_timeout_s=0.05,
)


def request_through_the_door(app, send, *, method="GET", path="/", body=(b"",), **headers):
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": method,
        "path": path,
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "headers": [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in {"host": "localhost", **headers}.items()
        ],
    }
    parts = list(body)

    async def receive():
        if not parts:
            await asyncio.Event().wait()
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    asyncio.run(asyncio.wait_for(Door(app, RULES, Gatekeeper(None))(scope, receive, send), 10.0))


def answer_through_the_door(app, **request):
    messages = []

    async def send(message):
        messages.append(message)

    request_through_the_door(app, send, **request)
    return messages[0]["status"]


async def reads_all(scope, receive, send):
    n_bytes, more = 0, True
    while more:
        message = await receive()
        n_bytes += len(message["body"])
        more = message["more_body"]
    await PlainTextResponse(str(n_bytes))(scope, receive, send)


@pytest.mark.parametrize(
    ("path", "n_bytes", "status"),
    [("/", 100, 200), ("/", 101, 413), ("/upload", 1_000, 200), ("/upload", 1_001, 413)],
)
def test_the_length_that_is_announced_is_held_to_the_limit_of_the_path(path, n_bytes, status):
    answer = answer_through_the_door(
        reads_all, method="POST", path=path, body=[b"x" * n_bytes], content_length=str(n_bytes)
    )

    assert answer == status


def test_a_body_without_a_length_is_cut_off_where_it_passes_the_limit():
    with pytest.raises(Exception, match="larger than the limit"):
        answer_through_the_door(reads_all, method="POST", body=[b"x" * 60] * 50)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://localhost:9"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "same-origin", "origin": "https://behind.a.proxy"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site", "origin": "http://localhost"}, 403),
        ({"host": "evil.example"}, 400),
    ],
)
def test_a_post_comes_from_our_own_page_or_from_no_page_at_all(headers, status):
    assert answer_through_the_door(reads_all, method="POST", **headers) == status


def test_a_client_that_takes_nothing_is_let_go():
    async def endless(scope, receive, send):
        async def chunks():
            while True:
                yield b"x"

        await StreamingResponse(chunks())(scope, receive, send)

    async def send_that_stalls(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    request_through_the_door(endless, send_that_stalls)  # returns


def test_an_error_of_the_application_passes():
    async def broken(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answer_through_the_door(broken)

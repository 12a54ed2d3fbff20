import pytest
from starlette.requests import HTTPConnection, Request

from pynomaly_tasks.web.auth import COOKIE, MAX_FAILURES, Gatekeeper


def request_with(address="10.0.0.1", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": pairs, "client": (address, 1), "path": "/", "method": "GET"})


@pytest.fixture
def gatekeeper():
    return Gatekeeper("the key")


def status(refusal):
    return None if refusal is None else refusal.status_code


def test_without_a_key_everybody_may_come_in():
    assert Gatekeeper(None).refusal(request_with()) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"x_api_key": "the key"}, None),
        ({"x_api_key": "the ke"}, 401),
        ({"x_api_key": ""}, 401),
        ({"authorization": "Bearer the key"}, None),
        ({"authorization": "bearer the key"}, None),
        ({"authorization": "Basic the key"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"cookie": f"{COOKIE}=the key"}, 401),
    ],
)
def test_the_key_opens_the_door_in_either_header_and_nothing_else_does(gatekeeper, headers, expected):
    assert status(gatekeeper.refusal(request_with(**headers))) == expected


def test_a_session_opens_the_door_until_it_ends_or_the_key_changes(gatekeeper):
    session = gatekeeper.new_session()
    ends_at, _, signature = session.partition(".")
    longer = f"{int(ends_at) + 3600}.{signature}"
    past = f"1.{gatekeeper._signature('session', '1')}"

    def answer(keeper, cookie):
        return status(keeper.refusal(request_with(cookie=f"{COOKIE}={cookie}")))

    assert answer(gatekeeper, session) is None
    assert [answer(gatekeeper, forged) for forged in (longer, past, "", ".", "x.y", "9" * 400 + ".a")] == [
        401
    ] * 6
    assert answer(Gatekeeper("another key"), session) == 401


def test_a_ticket_opens_a_websocket_and_nothing_else(gatekeeper):
    ticket = gatekeeper.new_ticket()
    ends_at, _, signature = ticket.partition(".")
    past = f"1.{gatekeeper._signature('ticket', '1')}"

    def answer(keeper, offered):
        headers = [(b"sec-websocket-protocol", f"pynomaly.v1, ticket.{offered}".encode())]
        scope = {"type": "websocket", "headers": headers, "client": ("10.0.0.1", 1), "path": "/ws"}
        return status(keeper.refusal(HTTPConnection(scope)))

    assert answer(gatekeeper, ticket) is None
    forged = (past, f"{int(ends_at) + 60}.{signature}", gatekeeper.new_session(), "", "\xe9.x")
    assert [answer(gatekeeper, one) for one in forged] == [401] * 5
    assert answer(Gatekeeper("another key"), ticket) == 401
    as_cookie = request_with(cookie=f"{COOKIE}={ticket}")
    over_http = request_with(sec_websocket_protocol=f"ticket.{ticket}")
    assert [status(gatekeeper.refusal(one)) for one in (as_cookie, over_http)] == [401, 401]


def test_an_address_that_guesses_is_put_off_and_others_are_not(gatekeeper):
    for number in range(MAX_FAILURES):
        assert status(gatekeeper.refusal(request_with(x_api_key=f"guess {number}"))) == 401

    refusal = gatekeeper.refusal(request_with(x_api_key="the key"))

    assert status(refusal) == 429
    assert refusal.headers["retry-after"] == "60"
    assert gatekeeper.refusal(request_with("10.0.0.2", x_api_key="the key")) is None


def test_the_count_of_wrong_keys_stays_small():
    gatekeeper = Gatekeeper("the key")

    for number in range(10_500):
        gatekeeper.knows("wrong", f"address {number}")

    assert len(gatekeeper._failures) == 10_000

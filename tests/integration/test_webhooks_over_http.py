"""Webhook posts against a real server on loopback that checks signatures, answers, fails, hangs or is not there."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import InvalidRequest, InvalidSettings
from pynomaly_tasks.kinds.deliver_webhook import DeliverWebhookRequest, perform
from pynomaly_tasks.kinds.services import Services
from pynomaly_tasks.senders.webhook import WebhookDelayed, WebhookEndpoint, WebhookRefused, Webhooks
from support.post_receiver import PostReceiver
from support.stack import Stack, client
from support.waiting import wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT = {"id": "event-1", "type": "job.completed", "source": "/pynomaly", "data": {"job_id": "job-1"}}


class Receiver(PostReceiver):
    """A receiver of webhooks."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=of-the-path"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver(204)
    yield receiver
    receiver.close()


def endpoint(url: str, *, secret: str = SECRET, timeout_s: float = 5.0, **more: Any) -> WebhookEndpoint:
    return WebhookEndpoint("crm", SecretStr(url), SecretStr(secret), timeout_s=timeout_s, **more)


def post(url: str, **more: Any) -> Any:
    return endpoint(url, **more).post("event-1", json.dumps(EVENT).encode())


def test_post_is_signed_so_that_the_receiver_can_verify_it(receiver: Receiver):
    posted = post(receiver.url)

    [(path, headers, body, _)] = receiver.posts
    assert posted.status == 204
    assert path == "/hook?token=of-the-path"
    assert Webhook(SECRET).verify(body, headers) == EVENT
    assert headers["webhook-id"] == "event-1"
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert headers["Host"] == f"127.0.0.1:{receiver.port}"
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"job-1", b"job-2"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(body, headers)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422])
def test_what_the_receiver_will_never_take_is_not_tried_again(receiver: Receiver, status: int):
    receiver.status = status

    with pytest.raises(WebhookRefused, match=f"webhook crm: answered with HTTP status {status}") as refused:
        post(receiver.url)

    assert refused.value.retryable is False


def test_receiver_that_is_gone_for_good_is_named_with_the_setting(receiver: Receiver):
    receiver.status = 410

    with pytest.raises(
        WebhookRefused, match=r"gone for good; take it out of the setting webhooks\.endpoints"
    ):
        post(receiver.url)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_the_receiver_may_take_later_is_tried_again(receiver: Receiver, status: int):
    receiver.status = status

    with pytest.raises(WebhookDelayed, match=f"HTTP status {status}") as delayed:
        post(receiver.url)

    assert delayed.value.retryable is True
    assert delayed.value.retry_after_s is None


@pytest.mark.parametrize(
    ("said", "least_s", "most_s"),
    [
        ("7", 7, 7),
        ("999999", 3_600, 3_600),
        (format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True), 0, 100),
        (format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True), 0, 0),
        ("soon", None, None),
        ("-1", None, None),
    ],
    ids=["seconds", "more than an hour", "a date to come", "a date past", "a word", "less than nothing"],
)
def test_time_that_the_receiver_asks_for_is_kept_within_an_hour(
    receiver: Receiver, said: str, least_s: float | None, most_s: float | None
):
    receiver.status, receiver.headers = 429, {"Retry-After": said}

    with pytest.raises(WebhookDelayed) as delayed:
        post(receiver.url)

    got = delayed.value.retry_after_s
    assert (got is None) == (least_s is None)
    assert got is None or (least_s or 0) <= got <= (most_s or 0)


def test_redirect_is_not_followed(receiver: Receiver):
    receiver.status, receiver.headers = 307, {"Location": receiver.url}

    with pytest.raises(WebhookRefused, match="redirects are not followed"):
        post(receiver.url)

    assert len(receiver.posts) == 1


def test_receiver_that_does_not_answer_is_given_up_in_time(receiver: Receiver):
    receiver.may_answer.clear()
    begun_s = time.monotonic()

    with pytest.raises(WebhookDelayed, match=r"no answer within 0\.3 s"):
        post(receiver.url, timeout_s=0.3)

    assert time.monotonic() - begun_s < 5


def test_receiver_that_is_not_there_may_come_back():
    with pytest.raises(WebhookDelayed, match="not reached"):
        post(f"http://127.0.0.1:{find_free_port()}/hook")


def test_name_that_is_not_found_may_be_found_later():
    with pytest.raises(WebhookDelayed, match="name is not found"):
        post("https://nobody.invalid/hook")


@pytest.mark.parametrize("inside", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "0.0.0.0"])
def test_name_that_leads_inside_is_refused_and_nothing_is_sent(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, inside: str
):
    family = socket.AF_INET6 if ":" in inside else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (inside, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)

    with pytest.raises(WebhookRefused, match="leads to an address of this network; set allow_private"):
        post(f"https://inside.example.com:{receiver.port}/hook")

    assert receiver.posts == []


def test_address_inside_is_refused_unless_it_is_meant():
    with pytest.raises(WebhookRefused, match="allow_private"):
        post("https://10.255.255.1/hook")
    with pytest.raises(WebhookDelayed):
        post("https://10.255.255.1:1/hook", allow_private=True, timeout_s=0.2)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://crm.example.com/hook", "must start with https://"),
        ("ftp://crm.example.com/hook", "must start with https:// and name a host"),
        ("https:///hook", "must start with https:// and name a host"),
        ("https://crm.example.com:port/hook", "is not an address"),
        ("https://me:password@crm.example.com/", "must not hold a user or password"),
    ],
)
def test_address_that_cannot_be_used_is_refused_by_its_setting_without_being_repeated(url: str, says: str):
    with pytest.raises(InvalidSettings, match=r"webhooks\.endpoints\.crm\.url") as refused:
        Webhooks([endpoint(url)]).check()

    assert says in str(refused.value)
    assert "example.com" not in str(refused.value)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!", "whsec_é"])
def test_secret_that_cannot_sign_is_refused_by_its_setting_without_being_repeated(secret: str):
    with pytest.raises(
        InvalidSettings, match=r"webhooks.endpoints.crm.secret: is no Standard Webhooks"
    ) as refused:
        Webhooks([endpoint("https://crm.example.com/", secret=secret)]).check()

    assert "!!" not in str(refused.value)


def test_neither_address_nor_secret_is_in_any_log_or_error(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    receiver.status = 500
    crm = endpoint(receiver.url)

    with pytest.raises(WebhookDelayed) as delayed:
        crm.post("event-1", b"{}")

    written = caplog.text + str(delayed.value) + repr(crm)
    assert "of-the-path" not in written
    assert SECRET not in written
    assert SECRET.removeprefix("whsec_") not in written


@dataclass
class Context:
    told: list[str] = field(default_factory=list)
    job_id: str = "delivery-1"
    attempt: int = 1

    def progress(self, current: int, total: int, status: str) -> None:
        self.told.append(status)

    def checkpoint(self) -> None: ...


def services(*endpoints: WebhookEndpoint) -> Services:
    return Services(
        datasets=None,  # type: ignore[arg-type]  # no dataset is opened
        results=None,  # type: ignore[arg-type]  # no result is read
        artifacts=None,  # type: ignore[arg-type]  # no file is read
        channels=None,  # type: ignore[arg-type]  # no channel is used
        deliveries=None,  # type: ignore[arg-type]  # kept by the receiver
        webhooks=Webhooks(endpoints),
    )


def test_job_posts_the_whole_event_and_keeps_who_answered_what(receiver: Receiver):
    request = DeliverWebhookRequest.model_validate({"endpoint": "crm", "event": EVENT})

    outcome = perform(Context(), request, services(endpoint(receiver.url)))  # type: ignore[arg-type]

    [(_, headers, body, _)] = receiver.posts
    assert Webhook(SECRET).verify(body, headers) == EVENT
    assert outcome.summary == {"endpoint": "crm", "event_id": "event-1", "http_status": 204}


def test_receiver_that_the_settings_do_not_name_is_refused_with_those_they_do():
    request = DeliverWebhookRequest.model_validate({"endpoint": "erp", "event": EVENT})

    with pytest.raises(InvalidRequest, match="endpoint: no endpoint named erp; known: crm"):
        perform(Context(), request, services(endpoint("https://crm.example.com/")))  # type: ignore[arg-type]


@pytest.fixture
def delivering(
    tmp_path_factory: pytest.TempPathFactory, redis_server: Any, receiver: Receiver
) -> Iterator[Stack]:
    """A worker whose settings name the receiver."""
    endpoints = json.dumps({"crm": {"url": receiver.url, "secret": SECRET}})
    stack = Stack(
        tmp_path_factory.mktemp("delivering"), redis_server, {"PYNOMALY_WEBHOOKS__ENDPOINTS": endpoints}
    )
    with client(stack):
        try:
            stack.worker()
            yield stack
        finally:
            stack.close()


def test_worker_delivers_over_the_queue_and_waits_as_long_as_the_receiver_asks(
    delivering: Stack, receiver: Receiver
):
    receiver.status, receiver.headers = 429, {"Retry-After": "3"}
    job = delivering.platform.submit(
        "deliver_webhook", {"endpoint": "crm", "event": EVENT}, backoff_s=0.1, max_retries=3
    )
    wait_until(lambda: receiver.posts, 30, "the first post")
    receiver.status, receiver.headers = 200, {}

    ended = delivering.wait_for(job.id, JobState.SUCCEEDED)

    first, second = delivering.platform.store.list_attempts(job.id)
    assert ended.attempt == 2
    assert first.finished_at is not None
    assert (second.started_at - first.finished_at).total_seconds() >= 2.9
    assert len(receiver.posts) == 2
    assert all(Webhook(SECRET).verify(body, headers) == EVENT for _, headers, body, _ in receiver.posts)
    output = "".join(program.output() for program in delivering.programs.started)
    assert SECRET not in output
    assert "of-the-path" not in output

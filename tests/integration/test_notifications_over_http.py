"""Apprise channels against real servers on loopback: one that answers, fails, hangs, or is not there."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import DeliveryFailed
from pynomaly_tasks.kinds.send_notification import SendNotificationRequest, perform
from pynomaly_tasks.kinds.services import Services
from pynomaly_tasks.senders import build_channels
from pynomaly_tasks.store.store import Store
from support.post_receiver import PostReceiver

RECORDS = "SELECT channel, n_attempts, last_error, delivered_at IS NOT NULL FROM deliveries ORDER BY channel"


class Hook(PostReceiver):
    """A service for notifications."""

    @property
    def url(self) -> str:
        return f"json://user:s3cret@127.0.0.1:{self.port}/t0ken"

    @property
    def posted(self) -> list[dict[str, object]]:
        """What it took."""
        return [json.loads(post.body) for post in self.posts if post.status < 300]


@dataclass
class Context:
    job_id: str = "notice-1"
    attempt: int = 1
    scratch: Path = Path()

    def progress(self, current: int, total: int, status: str) -> None: ...

    def checkpoint(self) -> None: ...


@dataclass
class Ledger:
    """The delivery log, in memory."""

    delivered: set[tuple[str, str]] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def begin(self, dedup_key: str, channel: str, job_id: str) -> bool:
        return (dedup_key, channel) not in self.delivered

    def finish(self, dedup_key: str, channel: str, error: str | None) -> None:
        if error is None:
            self.delivered.add((dedup_key, channel))
        else:
            self.errors.append(error)


@pytest.fixture
def start_hook() -> Iterator[Callable[[], Hook]]:
    started: list[Hook] = []

    def start() -> Hook:
        started.append(Hook())
        return started[-1]

    yield start
    for hook in started:
        hook.close()


def services(urls: dict[str, str], timeout_s: float = 5.0) -> Services:
    return Services(
        datasets=None,  # type: ignore[arg-type]  # no dataset is opened
        results=None,  # type: ignore[arg-type]  # the words are given
        artifacts=None,  # type: ignore[arg-type]  # no file is read
        channels=build_channels({name: SecretStr(url) for name, url in urls.items()}, timeout_s),
        deliveries=Ledger(),
        webhooks=None,  # type: ignore[arg-type]  # nothing is posted
    )


def send(world: Services, *channels: str) -> dict[str, object]:
    request = SendNotificationRequest(channels=channels, subject="4 anomalies", body="a <b>\nc & d")
    return dict(perform(Context(), request, world).summary)


def test_a_message_arrives_as_it_was_written(start_hook: Callable[[], Hook]) -> None:
    hook = start_hook()

    summary = send(services({"ops": hook.url}), "ops", "log")

    (posted,) = hook.posted
    assert (posted["title"], posted["message"]) == ("4 anomalies", "a <b>\nc & d")
    assert summary["delivered"] == ["ops", "log"]


@pytest.mark.parametrize("status", [500, 503, 404, 401])
def test_a_refusal_is_told_by_its_status_and_may_be_tried_again(
    start_hook: Callable[[], Hook], status: int
) -> None:
    hook = start_hook()
    hook.status = status

    with pytest.raises(DeliveryFailed) as failed:
        send(services({"ops": hook.url}), "ops")

    assert str(failed.value) == f"channel ops: the service answered with HTTP status {status}"
    assert failed.value.retryable


def test_a_redirected_message_does_not_count_as_delivered(start_hook: Callable[[], Hook]) -> None:
    hook = start_hook()
    hook.status, hook.headers = 302, {"Location": "/elsewhere"}

    with pytest.raises(DeliveryFailed, match="HTTP status 302"):
        send(services({"ops": hook.url}), "ops")


def test_a_failure_that_the_url_calls_optional_is_still_a_failure(start_hook: Callable[[], Hook]) -> None:
    hook = start_hook()
    hook.status = 500

    with pytest.raises(DeliveryFailed):
        send(services({"ops": f"{hook.url}?optional=yes"}), "ops")


def test_a_server_that_is_not_there_is_told_without_its_address() -> None:
    port = find_free_port()

    with pytest.raises(DeliveryFailed) as failed:
        send(services({"ops": f"json://user:s3cret@127.0.0.1:{port}/t0ken"}), "ops")

    assert str(failed.value) == "channel ops: the service could not be reached, or did not answer in time"


def test_a_server_that_hangs_is_given_up_after_the_timeout(start_hook: Callable[[], Hook]) -> None:
    hook = start_hook()
    hook.may_answer.clear()
    started = time.monotonic()

    with pytest.raises(DeliveryFailed, match=r"channel ops: .*(in time|within 0.5 s)"):
        send(services({"ops": hook.url}, timeout_s=0.5), "ops")

    assert 0.4 < time.monotonic() - started < 5


def test_what_was_delivered_is_not_sent_again_when_the_rest_is_retried(
    start_hook: Callable[[], Hook],
) -> None:
    good, bad = start_hook(), start_hook()
    bad.status = 500
    world = services({"good": good.url, "bad": bad.url})

    with pytest.raises(DeliveryFailed, match=r"channel bad: .* 500 .delivered, not sent again: good, log"):
        send(world, "good", "bad", "log")
    bad.status = 200
    summary = send(world, "good", "bad", "log")

    assert (len(good.posted), len(bad.posted)) == (1, 1)
    assert summary["delivered"] == ["bad"]
    assert summary["already_delivered"] == ["good", "log"]


def test_the_store_keeps_each_delivery_with_its_tries_and_its_last_error(
    start_hook: Callable[[], Hook], tmp_path: Path
) -> None:
    hook = start_hook()
    hook.status = 500
    store = Store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    store.migrate()
    world = replace(services({"ops": hook.url}), deliveries=store.deliveries)

    with pytest.raises(DeliveryFailed):
        send(world, "ops", "log")
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as database:
        failed = database.execute(RECORDS).fetchall()
    hook.status = 200
    summary = send(world, "ops", "log")
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as database:
        delivered = database.execute(RECORDS).fetchall()
    store.close()

    assert failed == [
        ("log", 1, None, 1),
        ("ops", 1, "channel ops: the service answered with HTTP status 500", 0),
    ]
    assert delivered == [("log", 1, None, 1), ("ops", 2, None, 1)]
    assert summary["already_delivered"] == ["log"]


def test_a_hanging_channel_does_not_keep_the_others_from_delivering(start_hook: Callable[[], Hook]) -> None:
    stuck, good = start_hook(), start_hook()
    stuck.may_answer.clear()

    with pytest.raises(DeliveryFailed, match="channel stuck"):
        send(services({"stuck": stuck.url, "good": good.url}, timeout_s=0.5), "stuck", "good")

    assert len(good.posted) == 1


def test_no_secret_is_in_any_error_or_record(start_hook: Callable[[], Hook]) -> None:
    hook = start_hook()
    hook.status = 500
    world = services({"ops": hook.url})

    with pytest.raises(DeliveryFailed) as failed:
        send(world, "ops")

    told = f"{failed.value!r} {world!r} {world.deliveries}"
    assert "channel ops" in told
    assert "s3cret" not in told
    assert "t0ken" not in told

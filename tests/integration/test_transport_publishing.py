"""Publishing through our `AMQP` and `Task`: plain workers read the same, signals and retries hold, nothing doubles."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import redis
from celery import Celery, signals
from kombu.exceptions import EncodeError, OperationalError
from kombu.utils.json import loads

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.transport import Channel
from pynomaly_tasks.transport.bulk import send_many
from support.transport import OURS

AMQP = "pynomaly_tasks.transport.amqp:AMQP"
TASK = "pynomaly_tasks.transport.task:Task"
ODD = {
    "id": UUID(int=7),
    "at": datetime(2026, 1, 2, tzinfo=UTC),
    "sum": Decimal("1.10"),
    "raw": b"\xff",
    1: "key",
}


@pytest.fixture(params=[None, TASK], ids=["Celery's Task", "our Task"])
def app(request: pytest.FixtureRequest, redis_server: RedisServer, broker: redis.Redis) -> Iterator[Celery]:
    with make_app(redis_server, OURS, AMQP, request.param) as app:
        yield app


def make_app(
    server: RedisServer, transport: str | None, amqp: str | None, task_cls: str | None = None
) -> Celery:
    app = Celery("publisher", broker=f"{server.url}/1", amqp=amqp, task_cls=task_cls, set_as_current=False)
    app.conf.broker_transport = transport
    app.conf.task_ignore_result = True

    @app.task(name="work", shared=False)
    def work(number: int, note: object = None) -> None:
        raise AssertionError("nobody consumes here")

    return app


def messages(broker: redis.Redis, key: str = "celery") -> list[dict[str, Any]]:
    """In the order of publishing; the body decoded as plain kombu would."""
    found = [json.loads(raw) for raw in reversed(broker.lrange(key, 0, -1))]  # type: ignore[arg-type]
    for message in found:
        assert message["properties"]["body_encoding"] == "base64"
        message["body"] = loads(base64.b64decode(message["body"]))
    return found


def without_identity(message: dict[str, Any]) -> dict[str, Any]:
    """What two calls of one kind have in common."""
    headers = {
        name: value for name, value in message["headers"].items() if name not in ("id", "root_id", "origin")
    }
    changing = ("correlation_id", "delivery_tag", "reply_to")
    properties = {name: value for name, value in message["properties"].items() if name not in changing}
    return {**message, "headers": headers, "properties": properties}


@pytest.mark.parametrize("options", [
    {}, {"priority": 3}, {"queue": "other"}, {"expires": datetime(2099, 1, 1, tzinfo=UTC)}, {"time_limit": 5},
    {"eta": datetime(2099, 1, 1, tzinfo=UTC), "shadow": "other name", "headers": {"mine": [1, None]}},
    {"serializer": "yaml"}, {"compression": "gzip"},
], ids=str)  # fmt: skip
def test_message_is_the_one_that_plain_celery_would_have_sent(
    redis_server: RedisServer, broker: redis.Redis, app: Celery, options: dict[str, Any]
) -> None:
    keys = {"priority": "celery\x06\x163", "queue": "other"}
    key = next((keys[name] for name in options if name in keys), "celery")
    with make_app(redis_server, None, None) as plain:
        plain.tasks["work"].apply_async((1,), {"note": ["x", 1.5, None]}, **options)
    for _ in range(3):  # the first of a task's calls goes another way than those that follow
        app.tasks["work"].apply_async((1,), {"note": ["x", 1.5, None]}, **options)

    raw = [json.loads(each) for each in reversed(broker.lrange(key, 0, -1))]  # type: ignore[arg-type]
    if "compression" in options or "serializer" in options:
        theirs, *ours = raw
        for each in ours:
            assert without_identity(each) | {"body": 0} == without_identity(theirs) | {"body": 0}
    else:
        theirs, *ours = messages(broker, key)
        theirs["properties"].pop("expiration", None)
        for each in ours:
            each["properties"].pop("expiration", None)
            assert without_identity(each) == without_identity(theirs)
    assert len(ours) == 3


def test_arguments_that_json_has_no_types_for_arrive_as_they_were(broker: redis.Redis, app: Celery) -> None:
    app.tasks["work"].delay(1, ODD)

    [message] = messages(broker)

    assert message["body"][0][1] == {**{k: v for k, v in ODD.items() if k != 1}, "1": "key"}


def test_what_cannot_be_encoded_is_refused_as_celery_refuses_it(broker: redis.Redis, app: Celery) -> None:
    with pytest.raises(EncodeError):
        app.tasks["work"].delay(1, object())

    assert broker.llen("celery") == 0


def test_large_arguments_travel_once(broker: redis.Redis, app: Celery) -> None:
    app.tasks["work"].delay(1, note=["x" * 1_000] * 100)

    [message] = messages(broker)

    assert message["body"][1] == {"note": ["x" * 1_000] * 100}
    assert len(message["headers"]["argsrepr"]) + len(message["headers"]["kwargsrepr"]) < 1_200


def test_signals_see_each_publish_and_may_change_its_headers(broker: redis.Redis, app: Celery) -> None:
    published = []

    def before(headers: dict[str, Any], **_: Any) -> None:
        headers["traced"] = "yes"

    def after(sender: str, headers: dict[str, Any], **_: Any) -> None:
        published.append((sender, headers["id"]))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        one = app.tasks["work"].delay(1)
        many = send_many(app.tasks["work"], [((2,), {}), ((3,), {})])
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)

    assert published == [("work", one.id), *(("work", each) for each in many)]
    assert [message["headers"]["traced"] for message in messages(broker)] == ["yes"] * 3


def test_publish_on_a_connection_that_was_cut_arrives_once(broker: redis.Redis, app: Celery) -> None:
    for number in range(5):
        broker.client_kill_filter(_type="normal", skipme=True)
        app.tasks["work"].delay(number)

    assert [message["body"][0] for message in messages(broker)] == [[number] for number in range(5)]


def test_publish_whose_declaration_is_tried_again_goes_through_the_new_channel(
    broker: redis.Redis, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Channel._size  # which declaring a queue asks for
    errors = [redis.ConnectionError("the second try"), redis.ConnectionError("the first")]

    def size_at_the_third_try(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return size(*args)

    monkeypatch.setattr(Channel, "_size", size_at_the_third_try)
    app.tasks["work"].apply_async((1,), retry_policy={"interval_start": 0})

    assert [message["body"][0] for message in messages(broker)] == [[1]]


def test_batch_whose_connection_was_cut_arrives_once(broker: redis.Redis, app: Celery) -> None:
    with app.producer_or_acquire() as producer, producer.batch(1_000):
        for number in range(50):
            app.tasks["work"].apply_async((number,), producer=producer)
        n_before_the_end = broker.llen("celery")
        broker.client_kill_filter(_type="normal", skipme=True)

    assert n_before_the_end == 0
    assert [message["body"][0] for message in messages(broker)] == [[number] for number in range(50)]


def test_batch_that_is_left_by_an_error_sends_nothing(broker: redis.Redis, app: Celery) -> None:
    with pytest.raises(LookupError), app.producer_or_acquire() as producer, producer.batch(1_000):
        app.tasks["work"].apply_async((1,), producer=producer)
        raise LookupError

    assert broker.llen("celery") == 0


def test_publish_without_a_broker_fails_as_celery_says(app: Celery) -> None:
    app.conf.broker_url = "redis://127.0.0.1:1/1"

    with pytest.raises(OperationalError):
        app.tasks["work"].apply_async((1,), retry=True, retry_policy={"max_retries": 1, "interval_start": 0})


def test_many_calls_are_what_single_calls_would_have_been(broker: redis.Redis, app: Celery) -> None:
    calls = [((number,), {"note": "n" * number}) for number in range(1_200)]
    ids = send_many(app.tasks["work"], calls, priority=0, time_limit=9)
    for args, kwargs in calls[:3]:
        app.tasks["work"].apply_async(args, kwargs, priority=0, time_limit=9)

    found = messages(broker)

    assert [message["headers"]["id"] for message in found[:1_200]] == ids
    assert [message["properties"]["correlation_id"] for message in found[:1_200]] == ids
    assert [message["body"][:2] for message in found[:1_200]] == [[list(a), k] for a, k in calls]
    assert len({message["properties"]["delivery_tag"] for message in found}) == 1_203
    for one, of_many in zip(found[1_200:], found, strict=False):
        assert without_identity(one) == without_identity(of_many)


def test_many_calls_with_wrong_arguments_are_refused(broker: redis.Redis, app: Celery) -> None:
    with pytest.raises(TypeError):
        send_many(app.tasks["work"], [((1,), {}), ((), {"unknown": 2})])

    assert broker.llen("celery") == 0

"""The short way of `.delay()`: what Celery would do otherwise is done, from the next call on, and nothing is lost."""

from __future__ import annotations

import base64
import json
import os
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
import redis
from celery import Celery, signals
from celery.app import task as celery_task
from kombu.exceptions import EncodeError, OperationalError
from kombu.utils.json import loads

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.transport.calls import Calls
from support.processes import Programs
from support.transport import OURS, close_results

OPTIONS = {"amqp": "pynomaly_tasks.transport.amqp:AMQP", "task_cls": "pynomaly_tasks.transport.task:Task"}


def make_app(server: RedisServer, **conf: Any) -> Celery:
    app = Celery("caller", broker=f"{server.url}/1", set_as_current=False, **OPTIONS)
    app.conf.update(broker_transport=OURS, task_ignore_result=True, **conf)

    @app.task(name="work", shared=False)
    def work(number: int) -> int:
        return number

    return app


@pytest.fixture
def app(redis_server: RedisServer, broker: redis.Redis) -> Iterator[Celery]:
    with make_app(redis_server) as app:
        yield app


@pytest.fixture
def n_short(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many calls went the short way, under "calls"."""
    counter: Counter[str] = Counter()
    send = Calls.send

    def counted(self: Calls, *args: Any) -> None:
        counter["calls"] += 1
        send(self, *args)

    monkeypatch.setattr(Calls, "send", counted)
    return counter


def numbers(broker: redis.Redis, queue: str = "celery") -> list[int]:
    """The argument of each call that waits, in order."""
    raw: Any = broker.lrange(queue, 0, -1)
    bodies = [loads(base64.b64decode(json.loads(each)["body"])) for each in reversed(raw)]
    return [body[0][0] for body in bodies]


def test_first_call_goes_celerys_way_and_the_others_the_short_one(
    app: Celery, broker: redis.Redis, n_short: Counter[str]
) -> None:
    results = [app.tasks["work"].delay(number) for number in range(5)]

    assert n_short["calls"] == 4
    assert numbers(broker) == [0, 1, 2, 3, 4]
    assert len({UUID(result.id) for result in results}) == 5
    assert all(result.ignored for result in results)


def route(app: Celery) -> None:
    app.conf.update(task_routes={"work": "elsewhere"})


def set_default_queue(app: Celery) -> None:
    app.conf.task_default_queue = "elsewhere"


def set_priority(app: Celery) -> None:
    app.tasks["work"].priority = 9
    app.tasks["work"]._exec_options = None  # as Celery has it: read once


def configure_anew(app: Celery) -> None:
    app.config_from_object({
        "broker_url": app.conf.broker_url, "broker_transport": OURS, "task_default_queue": "elsewhere"
    }, force=True)  # fmt: skip


CHANGES = {
    "all settings": (configure_anew, "elsewhere"),
    "its routes": (route, "elsewhere"),
    "the default queue": (set_default_queue, "elsewhere"),
    "the task's priority": (set_priority, "celery\x06\x169"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_call_after_a_change_goes_where_celery_would_send_it(
    app: Celery, broker: redis.Redis, n_short: Counter[str], change: str
) -> None:
    make, queue = CHANGES[change]
    app.tasks["work"].delay(1)
    app.tasks["work"].delay(2)

    make(app)
    app.tasks["work"].delay(3)
    app.tasks["work"].delay(4)

    assert n_short["calls"] == 2
    assert (numbers(broker), numbers(broker, queue)) == ([1, 2], [3, 4])


def test_task_that_no_longer_ignores_its_result_says_so(app: Celery, broker: redis.Redis) -> None:
    app.tasks["work"].delay(1)
    app.tasks["work"].delay(2)
    app.tasks["work"].ignore_result = False
    result = app.tasks["work"].delay(3)

    raw: Any = broker.lrange("celery", 0, -1)
    assert [json.loads(each)["headers"]["ignore_result"] for each in raw] == [False, True, True]
    assert not result.ignored


@pytest.mark.parametrize("where", ["the app's settings", "a settings object"])
def test_eager_mode_is_seen_when_it_is_switched_on_later(
    redis_server: RedisServer, broker: redis.Redis, where: str
) -> None:
    settings = types.SimpleNamespace(CELERY_TASK_IGNORE_RESULT=False)  # as Django's, which its tests change
    with make_app(redis_server) as app:
        if where == "a settings object":
            app.config_from_object(settings, namespace="CELERY")
        app.tasks["work"].delay(1)
        app.tasks["work"].delay(2)
        if where == "a settings object":
            settings.CELERY_TASK_ALWAYS_EAGER = True
        else:
            app.conf.task_always_eager = True

        assert app.tasks["work"].delay(3).get() == 3

    assert numbers(broker) == [1, 2]


def test_who_listens_to_a_signal_from_now_on_sees_each_call(app: Celery, broker: redis.Redis) -> None:
    seen = []

    def listen(headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers["id"])

    app.tasks["work"].delay(1)
    app.tasks["work"].delay(2)
    signals.before_task_publish.connect(listen)
    try:
        ids = [app.tasks["work"].delay(number).id for number in (3, 4)]
    finally:
        signals.before_task_publish.disconnect(listen)
    app.tasks["work"].delay(5)

    assert seen == ids
    assert numbers(broker) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("target", ["the app's send_task", "Task.apply_async"])
def test_function_that_a_tracer_put_in_the_place_of_celerys_is_called(app: Celery, target: str) -> None:
    app.tasks["work"].delay(1)
    app.tasks["work"].delay(2)
    patch = (
        mock.patch.object(type(app), "send_task", autospec=True, side_effect=type(app).send_task)
        if target == "the app's send_task"
        else mock.patch.object(
            celery_task.Task, "apply_async", autospec=True, side_effect=celery_task.Task.apply_async
        )
    )

    with patch as spy:
        app.tasks["work"].delay(3)
        app.tasks["work"].delay(4)

    assert spy.call_count == 2


def test_wrong_arguments_are_refused_before_anything_is_sent(app: Celery, broker: redis.Redis) -> None:
    app.tasks["work"].delay(1)

    with pytest.raises(TypeError):
        app.tasks["work"].delay()
    with pytest.raises(EncodeError):
        app.tasks["work"].delay(object())
    with pytest.raises(TypeError, match="must be a list or tuple"):
        app.tasks["work"].apply_async("7")
    app.tasks["work"].delay(2)

    assert numbers(broker) == [1, 2]


def test_task_that_expires_says_when_for_each_call(redis_server: RedisServer, broker: redis.Redis) -> None:
    with make_app(redis_server) as app:
        app.tasks["work"].expires = 600
        for number in range(3):
            app.tasks["work"].delay(number)

    raw: Any = broker.lrange("celery", 0, -1)
    assert len({json.loads(each)["headers"]["expires"] for each in raw}) == 3


def test_threads_share_a_channel_and_lose_nothing_when_connections_are_cut(
    redis_server: RedisServer, broker: redis.Redis
) -> None:
    policy = {"max_retries": 20, "interval_start": 0, "interval_step": 0}
    cutting = threading.Lock()

    def cut() -> None:
        # All that have published. While it connects, kombu tries again as often as it was told to for that alone.
        with cutting:
            clients: Any = broker.client_list()
            for client in clients:
                if client["cmd"] == "evalsha":
                    broker.client_kill_filter(_id=client["id"])

    with make_app(redis_server, task_publish_retry_policy=policy) as app:

        def call(first: int) -> None:
            for number in range(first, first + 100):
                app.tasks["work"].delay(number)
                if number % 25 == 0:
                    cut()

        with ThreadPoolExecutor(12) as threads:
            list(threads.map(call, range(0, 1_200, 100)))

    assert sorted(numbers(broker)) == list(range(1_200))


def test_forked_child_calls_under_ids_of_its_own(app: Celery, broker: redis.Redis) -> None:
    work = app.tasks["work"]
    work.delay(0), work.delay(1)

    if (pid := os.fork()) == 0:
        try:
            for number in range(2, 6):
                work.delay(number)
        finally:
            os._exit(0)
    for number in range(6, 10):
        work.delay(number)
    os.waitpid(pid, 0)

    raw: Any = broker.lrange("celery", 0, -1)
    assert sorted(numbers(broker)) == list(range(10))
    assert len({json.loads(each)["headers"]["id"] for each in raw}) == 10
    assert len({json.loads(each)["headers"]["origin"] for each in raw}) == 2


def test_call_after_its_connection_was_closed_opens_another(app: Celery, broker: redis.Redis) -> None:
    work = app.tasks["work"]
    work.delay(1), work.delay(2)
    with app.producer_or_acquire() as producer:
        producer.connection.close()
    work.delay(3), work.delay(4)

    assert numbers(broker) == [1, 2, 3, 4]


@pytest.mark.parametrize("retries", [True, False])
def test_broker_that_is_gone_is_reported_and_the_next_call_after_it_is_back_arrives(
    start_redis: Callable[..., RedisServer], retries: bool
) -> None:
    server = start_redis()
    policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
    with make_app(server, task_publish_retry=retries, task_publish_retry_policy=policy) as app:
        work = app.tasks["work"]
        work.delay(1), work.delay(2)
        server.kill()
        with pytest.raises(OperationalError):
            work.delay(3)
        server.start()
        work.delay(4), work.delay(5)

        with server.client(1) as broker:
            assert numbers(broker)[-2:] == [4, 5]


def test_result_of_a_short_call_is_fetched(
    redis_server: RedisServer, broker: redis.Redis, programs: Programs
) -> None:
    env = {
        "TRANSPORT_BROKER": f"{redis_server.url}/1",
        "TRANSPORT": OURS,
        "TRANSPORT_RESULTS": f"{redis_server.url}/3",
        "TRANSPORT_EFFECTS": f"{redis_server.url}/2",
        "PYTHONPATH": "tests",
    }
    programs.celery_worker("support.transport_app", "-P", "solo", "-l", "INFO", env=env)
    with make_app(redis_server, result_backend=f"{redis_server.url}/3") as app:
        app.tasks["work"].ignore_result = False
        results = [app.tasks["work"].delay(number) for number in range(4)]

        assert [result.get(timeout=30) for result in results] == [0, 1, 2, 3]
        assert [result.state for result in results] == ["SUCCESS"] * 4
        close_results(app)

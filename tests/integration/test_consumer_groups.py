"""The platform's own groups and handlers of one's own, over each log of events."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pynomaly_tasks.core.event import AUDIT_EVENTS, JOB_EVENTS, Event
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.job_events import JobCompleted, JobEvent
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import NotFound, SourceUnavailable
from pynomaly_tasks.events.handlers import HANDLERS, on_event
from support.event_groups import (
    EventWorld,
    cancel_requested,
    completed,
    create_topics,
    failed,
    settings_of,
    until,
)

MakeWorld = Callable[..., EventWorld]


@pytest.fixture(params=["kafka", "redis_streams"])
def make_world(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer
) -> Iterator[MakeWorld]:
    """Platforms on one log, whose settings are the test's."""
    kafka = None
    if request.param == "kafka":
        kafka = request.getfixturevalue("module_kafka")
        create_topics(kafka)
    redis_server.client(3).flushall()
    made: list[EventWorld] = []

    def make(**sections: Any) -> EventWorld:
        made.append(EventWorld(settings_of(tmp_path, redis_server, kafka, **sections)))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def group() -> Iterator[str]:
    """The name of a group of the test's own."""
    name = f"g-{new_id()}"
    yield name
    HANDLERS._by_group.pop(name, None)


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))


def test_dashboard_is_sent_each_event_once_in_order_as_a_ready_made_frame(make_world: MakeWorld):
    async def scenario() -> None:
        world, job = make_world(), new_id()
        first, second = failed(job), completed(job)
        await world.append(first, second, first)

        async with world.running("dashboard"):
            await until(lambda: len(of_job(world, job)) >= 2, "both frames")
            await world.append(second, third := completed(job))
            await until(lambda: len(of_job(world, job)) >= 3, "the third")

        assert [frame["event_id"] for frame in of_job(world, job)] == [first.id, second.id, third.id]
        frame = of_job(world, job)[1]
        assert frame == {
            "type": "job", "event": "job.completed", "event_id": second.id, "job_id": job,
            "kind": "detect_anomalies", "queue": "anomaly_detection", "state": "succeeded", "attempt": 1,
            "progress": None, "summary": {"anomalies_found": 3}, "error": None, "tags": ["nightly"],
            "dataset": "taxi.csv", "at": pytest.approx(second.occurred_at.timestamp(), abs=1e-5),
        }  # fmt: skip
        assert of_job(world, job)[0]["error"] == {"type": "InvalidDataset", "message": "dataset: is empty"}

    run(scenario())


def test_what_somebody_did_is_in_the_audit_log_once_and_in_the_activity_stream(make_world: MakeWorld):
    async def scenario() -> None:
        world, job = make_world(), new_id()
        event = cancel_requested(job)
        await world.append(event, event)

        async with world.running("audit", "dashboard"):
            await until(lambda: world.platform.store.audit.list(), "the row")
            await until(lambda: world.frames("activity:stream"), "the frame")
            await until(lambda: none_left(world, "audit", AUDIT_EVENTS), "everything is committed")

        [(_, entry)] = [one for one in world.platform.store.audit.list() if one[1].subject == job]
        assert (entry.type, entry.actor, entry.event_id) == ("audit.job.cancel_requested", "ana", event.id)
        assert entry.data == event.data
        [frame] = [one for one in world.frames("activity:stream") if one["event_id"] == event.id]
        assert (frame["type"], frame["event"], frame["data"]["reason"]) == (
            "activity", "audit.job.cancel_requested", "typo",
        )  # fmt: skip

    run(scenario())


def test_alert_is_one_notification_job_and_none_is_sent_about_alerts(make_world: MakeWorld):
    async def scenario() -> None:
        world, job = make_world(alerts={"channels": ["log"]}), new_id()
        event = failed(job)
        await world.append(
            event, event, completed(job), failed(new_id(), kind="send_notification", tags=("alert",))
        )

        async with world.running("alerts"):
            await until(lambda: world.platform.store.list_jobs(), "the job")
            await until(lambda: none_left(world, "alerts", JOB_EVENTS), "everything is applied")

        [told] = [one for one in world.platform.store.list_jobs() if job in str(one.request)]
        assert (told.kind, told.idempotency_key, told.owner) == (
            "send_notification", f"alert:{event.id}", "alerts",
        )  # fmt: skip
        assert told.request["channels"] == ["log"]
        assert told.request["subject"] == "job.failed: detect_anomalies"
        assert "dataset: is empty" in told.request["body"]
        assert not [
            one for one in world.platform.store.list_jobs() if "kind: send_notification" in str(one.request)
        ]

    run(scenario())


def test_webhooks_get_one_delivery_job_for_each_receiver_that_wants_the_event(make_world: MakeWorld):
    async def scenario() -> None:
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        endpoints = {
            "crm": {"url": "https://crm.example.com/hook", "secret": secret, "event_types": ["job.*"]},
            "ops": {"url": "https://ops.example.com/hook", "secret": secret, "event_types": ["job.failed"]},
        }
        world, job = make_world(webhooks={"endpoints": endpoints}), new_id()
        event, other = failed(job), completed(job)
        await world.append(event, other, event, failed(new_id(), kind="deliver_webhook"))

        async with world.running("webhooks"):
            await until(lambda: len(deliveries(world, job)) >= 3, "the jobs")
            await until(lambda: none_left(world, "webhooks", JOB_EVENTS), "everything is applied")

        assert sorted(one.idempotency_key or "" for one in deliveries(world, job)) == sorted(
            [f"webhook:crm:{event.id}", f"webhook:ops:{event.id}", f"webhook:crm:{other.id}"]
        )
        [delivery] = [
            one for one in deliveries(world, job) if one.idempotency_key == f"webhook:ops:{event.id}"
        ]
        assert delivery.request["endpoint"] == "ops"
        assert delivery.request["event"]["data"] == event.data
        assert not [one for one in world.platform.store.list_jobs() if secret in str(one)]
        assert not [
            one
            for one in world.platform.store.list_jobs()
            if one.request["event"]["data"]["kind"] == "deliver_webhook"
        ]

    run(scenario())


def test_handlers_of_ones_own_are_called_once_with_the_typed_event_in_their_order(
    make_world: MakeWorld, group: str
):
    async def scenario() -> None:
        world, job = make_world(), new_id()
        billed: list[tuple[str, Any]] = []
        seen: list[str] = []

        @on_event("job.completed", group=group)
        def bill(event: Event, data: JobCompleted) -> None:
            assert threading.current_thread() is not threading.main_thread()
            if data.job_id == job:
                billed.append((event.id, data))

        @on_event("job.*", group=group)
        async def watch(event: Event, data: JobEvent) -> None:
            if data.job_id == job:
                seen.append(event.type)

        events = [failed(job), completed(job), completed(job)]
        await world.append(*events, *events)

        async with world.running(group):
            await until(lambda: none_left(world, group, JOB_EVENTS), "everything is applied")

        assert [event_id for event_id, _ in billed] == [events[1].id, events[2].id]
        assert isinstance(billed[0][1], JobCompleted)
        assert seen == ["job.failed", "job.completed", "job.completed"]

    run(scenario())


def test_handler_that_failed_is_tried_again_alone_and_the_groups_others_are_not_repeated(
    make_world: MakeWorld, group: str
):
    async def scenario() -> None:
        world, job = make_world(events={"max_attempts": 3}), new_id()
        calls: list[str] = []

        @on_event("job.failed", group=group)
        def steady(event: Event, data: JobEvent) -> None:
            calls.append(f"steady {data.job_id}")

        @on_event("job.failed", group=group)
        def shaky(event: Event, data: JobEvent) -> None:
            calls.append(f"shaky {data.job_id}")
            if data.job_id == job:
                raise ValueError("no such account")

        await world.append(event := failed(job), failed(other := new_id()))

        async with world.running(group):
            await until(lambda: none_left(world, group, JOB_EVENTS), "everything is dealt with")

        assert [calls.count(f"{name} {job}") for name in ("steady", "shaky")] == [1, 3]
        assert [calls.count(f"{name} {other}") for name in ("steady", "shaky")] == [1, 1]
        [letter] = [one for one in await world.letters() if one.group == group]
        assert (letter.reason, letter.message, letter.n_attempts) == (
            "handler_failed", "ValueError: no such account", 3,
        )  # fmt: skip
        assert dict(letter.record.headers)["ce_id"] == event.id.encode()

    run(scenario())


def test_handler_whose_neighbour_is_away_is_waited_for(make_world: MakeWorld, group: str):
    async def scenario() -> None:
        world, job = make_world(events={"max_attempts": 2}), new_id()
        n_calls = 0

        @on_event("job.failed", group=group)
        def ask(event: Event, data: JobEvent) -> None:
            nonlocal n_calls
            if data.job_id == job:
                n_calls += 1
                if n_calls < 6:
                    raise SourceUnavailable("the billing system is away")

        await world.append(failed(job))

        async with world.running(group):
            await until(lambda: none_left(world, group, JOB_EVENTS), "it came back")

        assert n_calls == 6
        assert [one for one in await world.letters() if one.group == group] == []

    run(scenario())


def test_handler_that_hangs_has_failed_after_its_timeout(make_world: MakeWorld, group: str):
    async def scenario() -> None:
        world, job = make_world(events={"max_attempts": 1}), new_id()
        never = threading.Event()

        @on_event("job.failed", group=group, timeout_s=0.2)
        def hang(event: Event, data: JobEvent) -> None:
            if data.job_id == job:
                never.wait(60)

        await world.append(failed(job), failed(new_id()))

        async with world.running(group):
            await until(lambda: none_left(world, group, JOB_EVENTS), "the rest goes on")

        never.set()
        [letter] = [one for one in await world.letters() if one.group == group]
        assert "longer than 0.2 s" in letter.message

    run(scenario())


def test_group_that_nobody_registered_is_refused_by_name(make_world: MakeWorld):
    async def scenario() -> None:
        with pytest.raises(NotFound, match="no handler is registered for the group nobody"):
            async with make_world().running("nobody"):
                pass

    run(scenario())


def of_job(world: EventWorld, job: str) -> list[dict[str, Any]]:
    return [frame for frame in world.frames() if frame["job_id"] == job]


def deliveries(world: EventWorld, job: str) -> list[Any]:
    return [one for one in world.platform.store.list_jobs() if job in str(one.request)]


async def none_left(world: EventWorld, group: str, topic: str) -> bool:
    return await world.lag(group, topic) == 0

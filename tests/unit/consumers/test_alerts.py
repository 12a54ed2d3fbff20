import asyncio
from dataclasses import replace
from typing import Any

import pytest

from pynomaly_tasks.consumers.alerts import AlertsEffect
from pynomaly_tasks.consumers.frames import build_frame
from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.system_events import SystemHealth
from pynomaly_tasks.core.work_events import AnomalyDetected, NotificationFailed
from pynomaly_tasks.kinds.send_notification import SendNotificationRequest
from pynomaly_tasks.settings.events import AlertSettings
from support.event_groups import completed, event_of, failed


class Desk:
    """Takes submissions and keeps them by idempotency key."""

    def __init__(self) -> None:
        self.requests: dict[str, dict[str, Any]] = {}
        self.options: list[dict[str, Any]] = []

    def __call__(self, kind: str, request: dict[str, Any], **options: Any) -> Any:
        assert kind == "send_notification"
        SendNotificationRequest.model_validate(request)
        self.requests.setdefault(options["idempotency_key"], request)
        self.options.append(options)


def tell(*events: Event, replay_id: str | None = None, **settings: Any) -> Desk:
    desk = Desk()
    effect = AlertsEffect(desk, AlertSettings(**{"channels": ("ops",), **settings}), own_source="/pynomaly")  # type: ignore[arg-type]
    asyncio.run(effect.apply(events, replay_id=replay_id))
    return desk


def anomalies(**what: Any) -> Event:
    data: dict[str, Any] = {
        "job_id": "j", "result": "/r", "dataset": "taxi.csv", "detector": "ecod", "threshold": 1.0,
        "n_scored": 100, "n_anomalies": 3, "batch": 1, "n_batches": 1, "anomalies": (), **what,
    }  # fmt: skip
    return event_of(AnomalyDetected(**data), "j")


def test_nobody_is_told_where_no_channel_is_named() -> None:
    assert tell(failed("j"), channels=()).requests == {}


def test_events_of_other_types_are_left_alone() -> None:
    assert tell(completed("j")).requests == {}
    assert len(tell(completed("j"), event_types=("job.comp*",)).requests) == 1


def test_event_that_comes_again_is_the_same_alert_and_a_replay_another() -> None:
    event = failed("j")

    assert list(tell(event, event).requests) == [f"alert:{event.id}"]
    assert list(tell(event, replay_id="r1").requests) == [f"alert:r1/{event.id}"]


def test_nothing_is_told_of_alerts_themselves() -> None:
    of_alert = failed("j", kind="send_notification", tags=("alert",))
    undelivered = event_of(
        NotificationFailed(
            job_id="j", dedup_key="alert:1", subject="s", source_job_ids=(), errors={"ops": "down"}, attempt=1
        ),
        "j",
    )
    other = event_of(
        NotificationFailed(
            job_id="j", dedup_key="mine", subject="s", source_job_ids=(), errors={"ops": "down"}, attempt=1
        ),
        "j",
    )

    desk = tell(of_alert, undelivered, other, event_types=("*",))

    assert list(desk.requests) == [f"alert:{other.id}"]
    assert desk.options[0]["tags"] == ["alert"]


@pytest.mark.parametrize(
    ("what", "told"),
    [({"n_anomalies": 3}, True), ({"n_anomalies": 2}, False), ({"n_anomalies": 30, "batch": 2}, False)],
)
def test_detection_is_told_once_and_from_a_number_of_anomalies_on(what: dict[str, int], told: bool) -> None:
    desk = tell(anomalies(**what), min_anomalies=3)

    assert [request["subject"] for request in desk.requests.values()] == ["3 anomalies in taxi.csv"] * told


def test_what_an_event_says_cannot_break_the_subject_or_the_limits() -> None:
    event = failed("j\nBcc: everyone")
    long = replace(event, data={**event.data, "kind": "x" * 10_000 + "\r\n", "dataset": "y" * 100_000})

    [request] = tell(long).requests.values()

    assert "\n" not in request["subject"]
    assert len(request["subject"]) <= 200
    assert len(request["body"]) <= 20_000


def test_frames_of_one_event_go_to_one_stream() -> None:
    health = event_of(SystemHealth(jobs={}, messages_ready={"reports": 3}), "health")

    streams = {
        event.type: build_frame(event, event.id).stream for event in (completed("j"), anomalies(), health)
    }

    assert streams == {
        "job.completed": "dashboard:stream",
        "anomaly.detected": "dashboard:stream",
        "system.health": "health:stream",
    }


def test_frame_of_a_detection_counts_and_does_not_list() -> None:
    frame = build_frame(anomalies(), "k").data

    assert b'"type":"anomalies"' in frame
    assert b'"n_anomalies":3' in frame
    assert b'"anomalies":[' not in frame

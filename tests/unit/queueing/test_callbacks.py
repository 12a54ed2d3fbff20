"""Callbacks get ids that a repeated delivery gives them again."""

from __future__ import annotations

import json
from typing import Any

from celery import Celery, chain, chord, group
from celery.app.task import Context

from pynomaly_tasks.queueing.callbacks import give_ids

app = Celery(set_as_current=False)


@app.task(name="step")
def step() -> None:
    """Something to be called."""


def _delivery(job_id: str = "job-1", **signatures: list[Any]) -> Context:
    """As it comes out of a message: plain JSON."""
    return Context(id=job_id, **json.loads(json.dumps(signatures)))


def _ids(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["options"]["task_id"]] if value.get("options", {}).get("task_id") else []
        return own + [found for part in value.values() for found in _ids(part)]
    return [found for part in value for found in _ids(part)] if isinstance(value, list) else []


def test_two_deliveries_of_a_job_give_the_same_ids() -> None:
    first, second = (_delivery(callbacks=[step.s(), step.s()], errbacks=[step.s()]) for _ in range(2))

    give_ids(first)
    give_ids(second)

    ids = _ids([*first.callbacks, *first.errbacks])
    assert ids == _ids([*second.callbacks, *second.errbacks])
    assert len(set(ids)) == 3


def test_two_jobs_give_different_ids() -> None:
    first, second = _delivery("job-1", callbacks=[step.s()]), _delivery("job-2", callbacks=[step.s()])

    give_ids(first)
    give_ids(second)

    assert set(_ids(first.callbacks)).isdisjoint(_ids(second.callbacks))


def test_every_step_of_a_composed_callback_has_an_id_of_its_own() -> None:
    for composed, n_steps in (
        (chain(step.s(), step.s(), app=app), 2),
        (group([step.s(), step.s(), step.s()], app=app), 3),
        (chord([step.s(), step.s()], step.s(), app=app), 3),
        (chain(step.s(), group([step.s(), step.s()], app=app), app=app), 3),
    ):
        delivery = _delivery(callbacks=[composed])

        give_ids(delivery)

        assert len(set(_ids(delivery.callbacks))) == n_steps


def test_id_that_the_caller_chose_stays() -> None:
    delivery = _delivery(callbacks=[step.s().set(task_id="mine")])

    give_ids(delivery)

    assert _ids(delivery.callbacks) == ["mine"]


def test_delivery_without_callbacks_is_fine() -> None:
    delivery = Context(id="job-1")

    give_ids(delivery)

    assert not delivery.callbacks

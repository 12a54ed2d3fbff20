"""A request for a task, checked at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import InvalidMessage, InvalidRequest
from pynomaly_tasks.messaging.backend import Entry
from pynomaly_tasks.messaging.codec import Codec, checksum
from pynomaly_tasks.messaging.message import MAX_PRIORITY, Message
from pynomaly_tasks.messaging.names import MAX_NAME, check_name
from pynomaly_tasks.messaging.options import MAX_SECONDS
from pynomaly_tasks.messaging.task_records import NewTask
from pynomaly_tasks.messaging.tasks.task import Request, pack

MAX_PARENTS = 100
MAX_KEY = 200
#: A repeating task that is due more often is a loop.
SHORTEST_INTERVAL_S = 0.1
_QUEUE_PREFIX = "tasks."


def queue_of(task_type: str) -> str:
    """The queue of a type's tasks. Raises InvalidRequest for what cannot be a type."""
    check_name(task_type, "type", InvalidRequest)
    if len(task_type) > MAX_NAME - len(_QUEUE_PREFIX):
        raise InvalidRequest.of("type", f"has more than {MAX_NAME - len(_QUEUE_PREFIX)} characters")
    return f"{_QUEUE_PREFIX}{task_type}"


def build_task(
    codec: Codec,
    task_type: str,
    arguments: Mapping[str, Any] | None,
    *,
    priority: int,
    delay_s: float | None,
    at: datetime | None,
    every_s: float | None,
    n_runs: int | None,
    after: Sequence[str],
    deduplication_key: str,
    retry: RetryPolicy,
    time_limit_s: float | None,
    max_lost: int,
    keep_s: float,
) -> NewTask:
    """The task to be kept. Raises InvalidRequest, naming the field and its limit."""
    queue = queue_of(task_type)
    _check_whole("priority", priority, 0, MAX_PRIORITY)
    if at is not None:
        _check_instant(at, delay_s)
    for name, value, low in (
        ("delay_s", delay_s, 0.0),
        ("every_s", every_s, SHORTEST_INTERVAL_S),
        ("time_limit_s", time_limit_s, 0.001),
        ("retry.backoff_s", retry.backoff_s, 0.0),
        ("retry.backoff_max_s", retry.backoff_max_s, 0.0),
    ):
        if value is not None:
            _check_seconds(name, value, low)
    _check_whole("retry.max_retries", retry.max_retries, 0, 1_000)
    if not 0.0 <= retry.jitter <= 1.0:
        raise InvalidRequest.of("retry.jitter", f"is {retry.jitter!r:.40}; it is a share, 0 to 1")
    _check_whole("max_lost", max_lost, 1, 1_000)
    if n_runs is not None:
        if every_s is None:
            raise InvalidRequest.of("n_runs", "is for tasks that repeat; give every_s too")
        _check_whole("n_runs", n_runs, 1, 10**9)
    if not isinstance(deduplication_key, str) or len(deduplication_key) > MAX_KEY:
        raise InvalidRequest.of("deduplication_key", f"must be text of at most {MAX_KEY} characters")
    task_id = new_id()
    request = Request(
        arguments=_checked(arguments),
        max_retries=retry.max_retries,
        backoff_s=retry.backoff_s,
        backoff_max_s=retry.backoff_max_s,
        jitter=retry.jitter,
        time_limit_s=time_limit_s,
    )
    try:
        canonical = codec.canonical(dict(request.arguments))
        body = pack(codec, task_id, asdict(request))
    except InvalidMessage as error:
        raise InvalidRequest.of("arguments", error.problems[0].message) from None
    bell = Message(payload={"task": task_id}, id=task_id, type=task_type, priority=priority)
    return NewTask(
        id=task_id,
        type=task_type,
        bell=Entry(
            channel=queue,
            message_id=task_id,
            body=codec.encode(bell, codec.canonical(bell.payload)),
            priority=priority,
            delay_s=delay_s or 0.0,
        ),
        body=body,
        fingerprint=checksum(canonical + b"\n" + task_type.encode()),
        key=deduplication_key and checksum(deduplication_key.encode("utf-8", "surrogatepass")),
        run_at=at,
        every_s=every_s,
        n_runs=n_runs,
        keep_s=keep_s,
        max_lost=max_lost,
        after=_parents(after),
    )


def _checked(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise InvalidRequest.of(
            "arguments", f"must map names to JSON values, and is {type(arguments).__name__}"
        )
    return dict(arguments)


def _parents(after: Sequence[str]) -> tuple[str, ...]:
    ids = (after,) if isinstance(after, str) else after
    if not isinstance(ids, (list, tuple)) or not all(isinstance(each, str) and each for each in ids):
        raise InvalidRequest.of("after", "must be the id of a task, or a list of ids")
    if len(ids) > MAX_PARENTS:
        raise InvalidRequest.of("after", f"names {len(ids)} tasks; at most {MAX_PARENTS} are allowed")
    return tuple(dict.fromkeys(ids))


def _check_instant(at: object, delay_s: float | None) -> None:
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise InvalidRequest.of(
            "at", f"is {at!r:.60}; it must be a datetime with a time zone, such as datetime.now(UTC)"
        )
    if delay_s is not None:
        raise InvalidRequest.of("at", "and delay_s were both given; give one")
    left_s = (at - datetime.now(at.tzinfo)).total_seconds()
    if left_s > MAX_SECONDS:
        raise InvalidRequest.of(
            "at", f"is {left_s:,.0f} seconds away; at most {MAX_SECONDS:,.0f} are allowed"
        )


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InvalidRequest.of(name, f"is {value!r:.40}; it must be a whole number, {low} to {high:,}")


def _check_seconds(name: str, value: object, low: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise InvalidRequest.of(name, f"is {value!r:.40}; it must be a number of seconds")
    if not low <= value <= MAX_SECONDS:
        raise InvalidRequest.of(name, f"is {value:g}; it must be {low:g} to {MAX_SECONDS:,.0f} seconds")

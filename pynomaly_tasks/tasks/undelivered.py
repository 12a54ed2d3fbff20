"""Messages that no task can be handed: into the store's dead letters, now or when it is back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from pynomaly_tasks.bootstrap import app, current_platform
from pynomaly_tasks.core.job import DeadReason
from pynomaly_tasks.errors import Conflict, JobAlreadyFinal, NotFound, StoreUnavailable
from pynomaly_tasks.queueing.app import QUEUES
from pynomaly_tasks.telemetry import get_logger
from pynomaly_tasks.transport.burying import bury
from pynomaly_tasks.transport.letters import queue_of, raw_message

log = get_logger(__name__)

EXPIRED = "the message expired before a worker took it"


def keep(raw: bytes, queue: str, why: str) -> bool:
    """Keep a message in the store. False when it cannot be: then the broker keeps it for `collect`.

    The transport calls this by name, for what cannot be read and what the worker refuses.
    """
    try:
        _store(raw, queue, why)
    except StoreUnavailable as error:
        log.warning("dead_letter_left_in_broker", queue=queue, why=why, error=str(error))
        return False
    return True


def keep_expired(message: Any) -> None:
    """Keep kombu's message of a task that nobody stored as a job. Raises what redis-py raises."""
    bury(message.channel, message.delivery_tag, queue_of(message), raw_message(message), EXPIRED)


def collect() -> int:
    """Bring what the broker kept while the store was away into the store; how many letters.

    Raises BrokerUnavailable, StoreUnavailable. A process that dies in the middle may leave one letter
    in both places, which is then kept twice.
    """
    platform = current_platform()
    n_collected = 0
    for letter in platform.queue.take_dead_letters([*QUEUES, *app.amqp.queues]):
        _store(letter.raw, letter.queue, letter.reason)
        platform.queue.forget_dead_letter(letter)
        n_collected += 1
    return n_collected


def _store(raw: bytes, queue: str, why: str) -> None:
    headers = _headers(raw)
    task, task_id = headers.get("task"), headers.get("id")
    reason = _reason(task, why)
    if isinstance(task_id, str) and _bury_job(_storable(task_id), reason, _storable(why)):
        return
    kind = _storable(task)[:255] if isinstance(task, str) else None
    current_platform().store.add_unreadable(_storable(queue)[:100], kind, raw, reason, _storable(why))


def _storable(text: str) -> str:
    """PostgreSQL takes every character but this one."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _reason(task: Any, why: str) -> DeadReason:
    if why == EXPIRED:
        return DeadReason.DEADLINE_PASSED
    is_unknown = isinstance(task, str) and task not in app.tasks
    return DeadReason.UNKNOWN_TASK if is_unknown else DeadReason.UNREADABLE


def _headers(raw: bytes) -> Mapping[str, Any]:
    try:
        headers = orjson.loads(raw)["headers"]
    except (ValueError, TypeError, KeyError, IndexError):
        return {}
    return headers if isinstance(headers, Mapping) else {}


def _bury_job(job_id: str, reason: DeadReason, why: str) -> bool:
    """Put the stored job of this message, if one waits for it, into the dead letters.

    Left as it is, the job would be rung for again and again, each time in vain.
    """
    platform = current_platform()
    try:
        platform.runner.report(platform.store.bury(job_id, reason, why))
    except JobAlreadyFinal:
        # Its row says all; but bytes that cannot be read may be worth a look.
        return reason is not DeadReason.UNREADABLE
    except (NotFound, Conflict):
        return False
    return True

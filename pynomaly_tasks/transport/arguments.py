"""Arguments that the task's function does not take: found before the task is started.

Celery looks at them where `.delay()` is called. Who calls a task by its name, or in another language,
is not looked at, and the task fails with a TypeError.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pynomaly_tasks.transport.message import READ_BODY

log = logging.getLogger(__name__)


def find_error(message: Mapping[str, Any]) -> TypeError | None:
    """What is wrong with them; None where this process is no worker or does not have the task."""
    body = message.get(READ_BODY)
    name = message["headers"].get("task")
    if body is None or name is None:
        return None
    task = _worker_tasks().get(name)
    check = None if task is None else _checker(task)
    if check is None:
        return None
    try:
        check(*body[0], **body[1])
    except TypeError as error:
        return error
    return None


def fail(message: Mapping[str, Any], error: TypeError) -> None:
    """Tell who waits for the result, as Celery would when the task had failed with this error."""
    from celery.app.task import Context

    headers = message["headers"]
    args, kwargs, embed = message[READ_BODY]
    task = _worker_tasks()[headers["task"]]
    request = Context({**headers, **message["properties"], **(embed or {}), "args": args, "kwargs": kwargs})
    ignores = headers.get("ignore_result", task.ignore_result)
    try:
        task.backend.mark_as_failure(headers["id"], error, request=request, store_result=not ignores)
    except Exception:  # whatever backend it is: the message is safe in the dead letters
        log.exception("the failure of %s could not be stored", headers["id"])


def _worker_tasks() -> Mapping[str, Any]:
    # Where Celery's worker keeps its own shortcut to them; empty in every other process.
    trace = sys.modules.get("celery.app.trace")
    return trace._localized[0] if trace is not None and trace._localized else {}


@lru_cache(maxsize=4096)
def _checker(task: Any) -> Any:
    """A function with the task's signature; None where Celery is told not to look."""
    return getattr(task, "__header__", None) if task.typing else None

"""Messages as they lie in Redis: one that is right, and the many ways to be wrong."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

Message = dict[str, Any]


def raw_message(body: object = None, *, task: str = "pynomaly.tasks.act", queue: str = "default") -> Message:
    """A task message as Celery's protocol 2 has it; ``body`` is ``[args, kwargs, embed]`` or bytes."""
    encoded = body if isinstance(body, bytes) else json.dumps([[], {}, {}] if body is None else body).encode()
    task_id = str(uuid.uuid4())
    return {
        "body": base64.b64encode(encoded).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "timelimit": [None, None]},
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": str(uuid.uuid4()),
            "body_encoding": "base64",
            "priority": 0,
        },
    }


def expired_message(**request: Any) -> Message:
    """A message for the kind `act` whose time is over."""
    message = raw_message([[], request, {}])
    message["headers"]["expires"] = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    return message


def _with(change: Callable[[Message], object], body: object = None) -> bytes:
    message = raw_message(body)
    change(message)
    return json.dumps(message).encode()


#: Each ended plain Celery's worker, or was dropped without a word, or holds what must not be decoded.
UNREADABLE: dict[str, bytes] = {
    "garbage bytes": b"\xff\xfe garbage",
    "empty": b"",
    "a number": b"42",
    "a list": b"[1, 2]",
    "null": b"null",
    "an empty object": b"{}",
    "2,000 levels deep": b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
    "no properties": _with(lambda m: m.pop("properties")),
    "properties are a list": _with(lambda m: m.update(properties=[1])),
    "delivery info is text": _with(lambda m: m["properties"].update(delivery_info="x")),
    "headers are a list": _with(lambda m: m.update(headers=[1])),
    "body is no base64": _with(lambda m: m.update(body="%%%")),
    "body is an object": _with(lambda m: None, {"a": 1}),
    "body is a number": _with(lambda m: None, 5),
    "body is too short": _with(lambda m: None, [[]]),
    "body is not UTF-8": _with(lambda m: None, b"\xff\xfe"),
    "args are an object": _with(lambda m: None, [{"a": 1}, {}, {}]),
    "kwargs are a list": _with(lambda m: None, [[], [1], {}]),
    "time limit is text": _with(lambda m: m["headers"].update(timelimit="x")),
    "time limits are text": _with(lambda m: m["headers"].update(timelimit=["x", "y"])),
    "no id": _with(lambda m: m["headers"].pop("id")),
    "id is a number": _with(lambda m: m["headers"].update(id=5)),
    "compressed": _with(lambda m: m["headers"].update(compression="application/x-gzip")),
    "unknown character set": _with(lambda m: m.update({"content-encoding": "klingon"})),
}

#: These can be read: the worker, or the job's own request, refuses them.
REFUSED: dict[str, bytes] = {
    "no delivery tag, no arguments": _with(lambda m: m["properties"].pop("delivery_tag")),
    "no task": _with(lambda m: m["headers"].pop("task")),
    "pickle": _with(lambda m: m.update({"content-type": "application/x-python-serialize"})),
    "YAML": _with(lambda m: m.update({"content-type": "application/x-yaml"})),
    "eta is no time": _with(lambda m: m["headers"].update(eta="yesterday")),
    "expires is no time": _with(lambda m: m["headers"].update(expires="whenever")),
}

"""Task messages as Celery writes them, and all the ways to break one."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import uuid
from typing import Any

import kombu.compression

DEEP = "[" * 5_000 + "]" * 5_000


def good_message(
    *,
    headers: dict[str, Any] | None = {},  # noqa: B006  # never changed
    body: Any = None,
    compression: str | None = None,
    task: str = "work",
    queue: str = "celery",
) -> tuple[bytes, dict[str, Any], Any]:
    """Its bytes, the message and its body. ``headers`` are added; None: not a task message."""
    body = [[0], {}, {"callbacks": None}] if body is None else body
    all_headers: dict[str, Any] = {}
    if headers is not None:
        all_headers = {
            "lang": "py",
            "task": task,
            "id": str(uuid.uuid4()),
            "eta": None,
            "retries": 0,
            **headers,
        }
    data = json.dumps(body).encode()
    if compression:
        data, all_headers["compression"] = kombu.compression.compress(data, compression)
    message = {
        "body": base64.b64encode(data).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": all_headers,
        "properties": {
            "correlation_id": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(message).encode(), message, body


def _broken(**changes: Any) -> bytes:
    _, message, _ = good_message()
    for name, value in changes.items():
        place, _, key = name.rpartition("__")
        target = message[place] if place else message
        key = key.replace("_type", "-type") if key == "content_type" else key
        if value is KeyError:
            del target[key]
        else:
            target[key] = value
    return json.dumps(message).encode()


def _body(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.b64encode(text.encode()).decode()


def _compressed(data: bytes, content_type: str) -> bytes:
    _, message, _ = good_message()
    message["headers"]["compression"] = content_type
    message["body"] = base64.b64encode(data).decode()
    return json.dumps(message).encode()


#: kind: (bytes, what the reason says)
MALFORMED: dict[str, tuple[bytes, str]] = {
    "garbage bytes": (b"\x80\x04\x95\xff\x00garbage", "not JSON"),
    "empty": (b"", "not JSON"),
    "scalar": (b"42", "must be a JSON object, not of type int"),
    "null": (b"null", "must be a JSON object"),
    "list": (b"[1, 2]", "must be a JSON object, not of type list"),
    "cut off": (_broken()[:200], "not JSON"),
    "deep message": (DEEP.encode(), "message"),
    "missing body": (_broken(body=KeyError), "no body"),
    "body is a number": (_broken(body=7), "body must be a string"),
    "missing properties": (_broken(properties=KeyError), "properties must be a JSON object, not missing"),
    "missing delivery info": (_broken(properties__delivery_info=KeyError), "properties.delivery_info"),
    "headers is a list": (_broken(headers=[]), "headers must be a JSON object"),
    "content type unknown": (_broken(content_type="application/x-nothing"), "content-type"),
    "content encoding unknown": (_broken(**{"content-encoding": "klingon"}), "content-encoding"),
    "body encoding unknown": (_broken(properties__body_encoding="rot13"), "body_encoding"),
    "body is not base64": (_broken(body="A"), "not base64"),
    "body is not JSON": (_broken(body=_body("{nonsense")), "the body is not JSON"),
    "deep body": (_broken(body=_body(f"[[{DEEP}], {{}}, {{}}]")), "the body is not JSON"),
    "body is not a list": (_broken(body=_body({"args": []})), r"\[args, kwargs, embed\]"),
    "body is too short": (_broken(body=_body([[], {}])), r"\[args, kwargs, embed\]"),
    "arguments are no list": (_broken(body=_body(["abc", {}, {}])), "positional arguments"),
    "keywords are no object": (_broken(body=_body([[], [], {}])), "keyword arguments"),
    "embed is a number": (_broken(body=_body([[], {}, 3])), "third part"),
    "compression unknown": (_compressed(b"x", "application/x-nothing"), "compression"),
    "compression is broken": (_compressed(b"not gzip", "application/x-gzip"), "cannot be decompressed"),
    "compression is cut off": (_compressed(bz2.compress(b"[]" * 999)[:-9], "application/x-bz2"), "cut off"),
    "bomb": (_compressed(kombu.compression.compress(b" " * 3_000_000, "zlib")[0], "application/x-gzip"),
             "more than 2000000 bytes"),
    "gzip under zlib's name": (_compressed(gzip.compress(b"[]"), "application/x-gzip"), "decompressed"),
    "eta is nonsense": (_broken(headers__eta="tomorrow"), "headers.eta"),
    "eta is a number": (_broken(headers__eta=12.5), "headers.eta"),
    "expires is nonsense": (_broken(headers__expires="x"), "headers.expires"),
    "timelimit is a string": (_broken(headers__timelimit="x"), "headers.timelimit"),
    "timelimit holds strings": (_broken(headers__timelimit=["x", "y"]), "headers.timelimit"),
    "id is missing": (_broken(headers__id=KeyError), "headers.id"),
    "id is a list": (_broken(headers__id=[1]), "headers.id"),
    "task is a number": (_broken(headers__task=5), "headers.task"),
    "retries is a string": (_broken(headers__retries="many"), "headers.retries"),
    "root id is an object": (_broken(headers__root_id={}), "headers.root_id"),
    "too large": (b" " * 1_000_001, "the limit is 1000000"),
}  # fmt: skip

_PICKLED = base64.b64encode(b"\x80\x04]\x94(]\x94}\x94}\x94e.").decode()

#: kind: (bytes, what the reason says); what a Celery worker refuses that has `work(number, lasts_s, gate)`.
REFUSED: dict[str, tuple[bytes, str]] = {
    "unknown task": (
        good_message(task="nobody.has.this")[0],
        "no worker here has the task 'nobody.has.this'",
    ),
    "argument missing": (good_message(body=[[], {}, {}])[0], "arguments do not fit the task.*number"),
    "too many arguments": (good_message(body=[[1, 2, 3, 4], {}, {}])[0], "arguments do not fit the task"),
    "unknown keyword": (good_message(body=[[1], {"colour": "red"}, {}])[0], "do not fit the task.*colour"),
    "pickle": (
        _broken(content_type="application/x-python-serialize", body=_PICKLED),
        "rejected: ContentDisallowed",
    ),
    "YAML that is none": (_broken(content_type="application/x-yaml", body=_body("{")), "rejected: "),
    "no task message": (good_message(headers=None, body={"hello": 1})[0], "names no task"),
    "pickle that is no task message": (
        json.dumps(
            {**good_message(headers=None)[1], "content-type": "application/x-python-serialize"}
        ).encode(),
        "rejected: ContentDisallowed",
    ),
}

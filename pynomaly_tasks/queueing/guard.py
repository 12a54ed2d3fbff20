"""kombu's Redis transport with a guard before its decoding: what cannot be read must not end the worker.

kombu and Celery decode a message in the worker's event loop. Bytes that are no JSON, a body that is no
list, a time limit that is no number end the whole process there; some are even given back, so that
every restarted worker dies of the same message. The guard hands such a message on in an envelope that
can be read, so that the consumer puts it into the dead letters and acknowledges it as it does others.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps, loads

#: The content type of what the guard handed on; the body is the message as it came.
UNREADABLE = "application/x-pynomaly-unreadable"
#: Header that says what is wrong with it.
WHY = "why"


class Unreadable(ValueError):
    """A message that kombu or Celery would break on."""


def guarded(item: bytes, queue: str) -> bytes:
    """The message itself, or, when it cannot be read, an envelope with its bytes."""
    try:
        check(item)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, Unreadable) else f"it is no JSON: {error!r}"
        return str(dumps(_envelope(item, queue, why))).encode()
    return item


def check(item: bytes) -> None:
    """Raises Unreadable, ValueError or RecursionError for what would end a worker, or vanish in it."""
    message = loads(item)
    _demand(isinstance(message, dict), "the message is no object")
    properties = _member(message, "properties", dict)
    _member(properties, "delivery_tag", str)
    delivery = _member(properties, "delivery_info", dict)
    _member(delivery, "exchange", str)
    _member(delivery, "routing_key", str)
    headers = message.get("headers") or {}
    _demand(isinstance(headers, dict), "its headers are no object")
    body = _decoded_body(message, properties)
    if "task" in headers:
        _check_task(headers, message, body)


def _decoded_body(message: dict[str, Any], properties: dict[str, Any]) -> bytes | None:
    body = message.get("body")
    encoding = properties.get("body_encoding")
    if not body:
        return None
    if encoding is None:
        return body.encode() if isinstance(body, str) else dumps(body).encode()
    _demand(encoding == "base64", f"its body_encoding is {encoding!r:.40}, only base64 is known")
    _demand(isinstance(body, str), "its body is no text")
    try:
        return base64.b64decode(body)
    except (binascii.Error, ValueError) as error:
        raise Unreadable(f"its body is no base64: {error}") from None


def _check_task(headers: dict[str, Any], message: dict[str, Any], body: bytes | None) -> None:
    _member(headers, "task", str)
    _member(headers, "id", str)
    # Decompressing comes before every check of size: 300 KB may become 300 MB. We compress nothing.
    _demand(not headers.get("compression"), "its body is compressed, which is not taken")
    limits = headers.get("timelimit") or [None, None]
    _demand(
        isinstance(limits, list)
        and len(limits) == 2
        and all(limit is None or (isinstance(limit, int | float) and limit >= 0) for limit in limits),
        f"its timelimit is {limits!r:.60}, not two numbers",
    )
    if message.get("content-type") != "application/json":
        return  # Celery refuses it by itself
    _demand(str(message.get("content-encoding")).lower() == "utf-8", "its content-encoding is not utf-8")
    try:
        args, kwargs, embed = loads(body or b"")
    except (TypeError, ValueError) as error:
        raise Unreadable(f"its body is no [args, kwargs, embed]: {error}") from None
    _demand(isinstance(args, list), "its args are no list")
    _demand(isinstance(kwargs, dict), "its kwargs are no object")
    _demand(embed is None or isinstance(embed, dict), "its embed is no object")


def _member(mapping: dict[str, Any], name: str, kind: type) -> Any:
    value = mapping.get(name)
    _demand(isinstance(value, kind), f"its {name} is {value!r:.60}")
    return value


def _demand(is_so: bool, why: str) -> None:
    if not is_so:
        raise Unreadable(why)


def _envelope(item: bytes, queue: str, why: str) -> dict[str, Any]:
    return {
        "body": base64.b64encode(item).decode(),
        "content-type": UNREADABLE,
        "content-encoding": "binary",
        "headers": {WHY: why[:1_000]},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
        },
    }


class GuardedRedis(redis.Redis):
    """Looks at what BRPOP and RPOP answer before kombu does."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """The answer, its message readable."""
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]  # redis
        if command_name == "BRPOP" and answer:
            key, item = answer
            return [key, guarded(item, key.decode().split(kombu_redis.Channel.sep)[0])]
        if command_name == "RPOP" and answer:
            return guarded(answer, "unknown")
        return answer


class GuardedChannel(kombu_redis.Channel):  # type: ignore[misc]  # kombu has no types
    """A channel whose messages can be read."""

    def _get_client(self) -> Any:
        if self.global_keyprefix:
            return super()._get_client()
        return GuardedRedis


class GuardedTransport(kombu_redis.Transport):  # type: ignore[misc]  # kombu has no types
    """For the setting ``broker_transport``."""

    Channel = GuardedChannel

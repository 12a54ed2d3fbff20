"""Looks at a message's bytes before kombu and Celery do, who die of some of them."""

from __future__ import annotations

import base64
import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dateutil.parser import isoparse  # type: ignore[import-untyped]
from kombu.serialization import registry

from pynomaly_tasks.transport.encoding import decode
from pynomaly_tasks.transport.message import BODY_BYTES, READ_BODY

JSON = "application/json"

_UNREADABLE = (ValueError, TypeError, KeyError, RecursionError, OverflowError, LookupError)


class Malformed(Exception):
    """The message cannot be delivered; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a message may be."""

    message_bytes: int  #: as it lies in Redis
    body_bytes: int  #: after decompression
    content_types: frozenset[str] | None  #: None takes all that kombu has a decoder for


def read(raw: bytes, limits: Limits) -> dict[str, Any]:
    """The message as kombu's channel takes it. Raises Malformed with the reason."""
    if len(raw) > limits.message_bytes:
        raise Malformed(f"the message has {len(raw)} bytes; the limit is {limits.message_bytes}")
    message = _object(_json(raw, "the message"), "the message")
    if "body" not in message:
        raise Malformed("the message has no body")
    properties = _object(message.get("properties"), "properties")
    _object(properties.get("delivery_info"), "properties.delivery_info")
    if message.get("headers") is None:
        message["headers"] = {}
    headers = _object(message["headers"], "headers")
    if "task" in headers:
        _check_task(headers)
    body = _read_body(message, properties, headers, limits)
    content_type = message.get("content-type")
    _check_content_type(content_type, limits, is_task="task" in headers)
    encoding = message.get("content-encoding")
    if encoding not in (None, "utf-8", "binary"):
        try:
            codecs.lookup(encoding)
        except (LookupError, TypeError) as error:
            raise Malformed(f"content-encoding {encoding!r} is unknown") from error
    if content_type == JSON and (body or "task" in headers):
        decoded = _json(body, "the body")
        if "task" in headers:
            _check_arguments(decoded)
        message[READ_BODY], message[BODY_BYTES] = decoded, body
    return message


def _json(raw: bytes, name: str) -> Any:
    try:
        return decode(raw)
    except _UNREADABLE as error:
        raise Malformed(f"{name} is not JSON: {_short(error)}") from error


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{name} must be a JSON object, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


# ---- the body


def _read_body(
    message: Mapping[str, Any], properties: Mapping[str, Any], headers: Mapping[str, Any], limits: Limits
) -> bytes:
    body = message["body"]
    if not isinstance(body, str):
        raise Malformed(f"the body must be a string, not {_kind(body)}")
    encoding = properties.get("body_encoding")
    if encoding in (None, "", "utf-8", "UTF-8"):
        read = body.encode("utf-8", "surrogatepass")
    elif encoding == "base64":
        try:
            read = base64.b64decode(body)
        except ValueError as error:
            raise Malformed(f"the body is not base64: {error}") from error
    else:
        raise Malformed(f"properties.body_encoding {encoding!r} is unknown; it is base64 or utf-8")
    compression = headers.get("compression")
    if compression:
        return _decompress(read, compression, limits.body_bytes)
    if len(read) > limits.body_bytes:
        raise Malformed(f"the body has {len(read)} bytes; the limit is {limits.body_bytes}")
    return read


#: The compressions that can be stopped at a limit.
_DECOMPRESSORS: Mapping[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-bzip2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}


def _decompress(compressed: bytes, compression: Any, limit_bytes: int) -> bytes:
    make = _DECOMPRESSORS.get(compression) if isinstance(compression, str) else None
    if make is None:
        raise Malformed(f"compression {compression!r} is not accepted; gzip, bzip2 and lzma are")
    decompressor = make()
    try:
        body: bytes = decompressor.decompress(compressed, limit_bytes + 1)
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
        raise Malformed(f"the body cannot be decompressed: {_short(error)}") from error
    if len(body) > limit_bytes:
        raise Malformed(f"the body has more than {limit_bytes} bytes when it is decompressed")
    if not decompressor.eof:
        raise Malformed("the compressed body is cut off")
    return body


def _check_content_type(content_type: Any, limits: Limits, *, is_task: bool) -> None:
    if limits.content_types is not None:
        if content_type not in limits.content_types:
            accepted = ", ".join(sorted(limits.content_types))
            raise Malformed(f"content-type {content_type!r} is not accepted; these are: {accepted}")
    elif is_task and not (isinstance(content_type, str) and content_type in registry._decoders):
        raise Malformed(f"content-type {content_type!r} is unknown")


# ---- Celery's task messages, protocol 2


def _check_task(headers: Mapping[str, Any]) -> None:
    for name in ("task", "id"):
        if not isinstance(headers.get(name), str) or not headers[name]:
            raise Malformed(f"headers.{name} must be a string, not {_kind(headers.get(name))}")
    for name in ("root_id", "parent_id", "group"):
        if not isinstance(headers.get(name), str | None):
            raise Malformed(f"headers.{name} must be a string or null, not {_kind(headers[name])}")
    retries = headers.get("retries")
    if retries is not None and (not _is_number(retries, int) or retries < 0):
        raise Malformed(f"headers.retries must be a whole number from 0, not {retries!r}"[:200])
    for name in ("eta", "expires"):
        _check_instant(name, headers.get(name))
    limits = headers.get("timelimit")
    if limits is not None and not (
        isinstance(limits, Sequence)
        and not isinstance(limits, str)
        and len(limits) == 2
        and all(limit is None or (_is_number(limit, int | float) and limit >= 0) for limit in limits)
    ):
        raise Malformed(f"headers.timelimit must be two numbers or nulls, not {limits!r}"[:200])


def _is_number(value: Any, types: Any) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _check_instant(name: str, value: Any) -> None:
    if not value or isinstance(value, datetime):
        return
    try:
        try:
            datetime.fromisoformat(value)
        except ValueError:
            isoparse(value)  # what Celery uses takes a year and a month alone
    except _UNREADABLE as error:
        raise Malformed(f"headers.{name} must be an ISO 8601 time, not {value!r}"[:200]) from error


def _check_arguments(body: Any) -> None:
    if not isinstance(body, list) or len(body) != 3:
        raise Malformed(f"the body must be [args, kwargs, embed], but is {_kind(body)}")
    args, kwargs, embed = body
    if not isinstance(args, list):
        raise Malformed(f"the positional arguments must be a list, not {_kind(args)}")
    _object(kwargs, "the keyword arguments")
    if embed is not None:
        _object(embed, "the third part of the body")

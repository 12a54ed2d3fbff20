"""From a message to bytes and back: canonical JSON, a checksum, compression, encryption, limits.

An envelope is one JSON object. A plain payload stands in it as it is, so that people and other
languages can read it; a compressed or encrypted one is base64 text beside the list of its wrappings.
The checksum is the SHA-256 of the payload's canonical JSON (keys sorted, UTF-8), whatever wraps it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from pynomaly_tasks.errors import InvalidMessage, InvalidSettings, PynomalyError, UnreadableMessage
from pynomaly_tasks.messaging.message import Guarantee, Message

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_VERSION = 1
_DEFLATE, _FERNET = "deflate", "fernet"
_TEXTS = ("id", "topic", "type", "correlation_id", "reply_to")
_READ = (*_TEXTS, "headers", "priority", "delay_s", "ttl_s")
_TEXT = frozenset({str})
_PLAIN = frozenset({str, int, bool, type(None)})


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecLimits:
    """What a payload may be; checked before the broker sees it, and again when it comes out."""

    max_bytes: int = 1_048_576  #: of canonical JSON
    max_depth: int = 64
    compress_above_bytes: int | None = None  #: None never compresses


class Codec:
    """Writes and reads envelopes. ``keys``: Fernet keys, the first one writes, all of them read.

    To rotate, put a new key first and drop the old one when nothing written with it is left.
    """

    def __init__(self, *, limits: CodecLimits | None = None, keys: Sequence[str] = ()) -> None:
        """Raises InvalidSettings for a key that is none, or where `cryptography` is not installed."""
        self.limits = limits or CodecLimits()
        self._fernet = _build_fernet(keys) if keys else None

    def canonical(self, payload: Any) -> bytes:
        """The payload's canonical JSON. Raises InvalidMessage for what is no JSON, too deep or too large."""
        limits = self.limits
        _check_payload(payload, limits.max_depth)
        try:
            data = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
        except TypeError as error:
            raise InvalidMessage.of("payload", f"is no JSON: {error}") from None
        if len(data) > limits.max_bytes:
            raise InvalidMessage.of(
                "payload",
                f"is {len(data):,} bytes of JSON; at most {limits.max_bytes:,} are allowed: keep the data "
                "in a file or a database and send where it lies",
            )
        return data

    def encode(self, message: Message, canonical: bytes) -> bytes:
        """The envelope of a message whose payload's canonical JSON is ``canonical``."""
        head: dict[str, Any] = {"v": _VERSION, "sha256": checksum(canonical)}
        for name in _TEXTS:
            if value := getattr(message, name):
                head[name] = value
        if message.headers:
            head["headers"] = dict(message.headers)
        if message.priority:
            head["priority"] = message.priority
        if message.delay_s is not None:
            head["delay_s"] = message.delay_s
        if message.ttl_s is not None:
            head["ttl_s"] = message.ttl_s
        if message.guarantee is not Guarantee.AT_LEAST_ONCE:
            head["guarantee"] = message.guarantee.value
        above = self.limits.compress_above_bytes
        data, wrappings = canonical, []
        if above is not None and len(data) > above:
            data = zlib.compress(data, 6)
            wrappings.append(_DEFLATE)
        if self._fernet is not None:
            data = base64.urlsafe_b64decode(self._fernet.encrypt(data))
            wrappings.append(_FERNET)
        if wrappings:
            head["wrapped"] = wrappings
            head["data"] = base64.b64encode(data).decode()
        else:
            head["payload"] = orjson.Fragment(canonical)
        try:
            return orjson.dumps(head)
        except TypeError as error:  # a lone surrogate in a header, say
            raise InvalidMessage.of("message", f"is no JSON: {error}") from None

    def decode(self, body: bytes, *, queue: str) -> Message:
        """The message in the bytes. Raises UnreadableMessage, saying what is wrong with them."""
        if len(body) > 2 * self.limits.max_bytes + 1_048_576:
            raise UnreadableMessage(f"{len(body):,} bytes are more than any envelope of this codec has")
        try:
            head = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise UnreadableMessage(
                f"the bytes are no JSON in UTF-8, or only a part of it: {error}"
            ) from None
        if not isinstance(head, dict):
            raise UnreadableMessage(
                f"the JSON is a {type(head).__name__}, not an object with an envelope's fields"
            )
        if head.get("v") != _VERSION:
            raise UnreadableMessage(
                f"the envelope's version is {head.get('v')!r:.40}; this codec reads {_VERSION}"
            )
        payload, data = self._payload(head)
        if checksum(data) != head.get("sha256"):
            raise UnreadableMessage(
                "the checksum (sha256) does not match the payload: it was changed on its way"
            )
        try:
            fields = {name: head[name] for name in _READ if name in head}
            if "guarantee" in head:
                fields["guarantee"] = Guarantee(head["guarantee"])
            return Message(payload=payload, queue=queue, **{"id": "", **fields})
        except (PynomalyError, ValueError) as error:
            raise UnreadableMessage(f"the envelope has a field that no message can have: {error}") from None

    def _payload(self, head: Mapping[str, Any]) -> tuple[Any, bytes]:
        """The payload and its canonical JSON."""
        if "wrapped" not in head:
            if "payload" not in head:
                raise UnreadableMessage("the envelope has neither payload nor data")
            payload = head["payload"]
            try:
                return payload, self.canonical(payload)
            except InvalidMessage as error:
                raise UnreadableMessage(f"the payload is past this codec's limits: {error}") from None
        data = self._unwrap(head)
        try:
            payload = orjson.loads(data)
            _check_payload(payload, self.limits.max_depth)
        except (orjson.JSONDecodeError, InvalidMessage) as error:
            raise UnreadableMessage(f"the payload is no JSON within this codec's limits: {error}") from None
        return payload, data

    def _unwrap(self, head: Mapping[str, Any]) -> bytes:
        wrappings, text = head["wrapped"], head.get("data")
        if wrappings not in ([_DEFLATE], [_FERNET], [_DEFLATE, _FERNET]) or not isinstance(text, str):
            raise UnreadableMessage(
                f"the payload's wrapping {wrappings!r:.60} is none that this codec writes"
            )
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UnreadableMessage(f"the payload's data is no base64: {error}") from None
        if _FERNET in wrappings:
            data = self._decrypt(data)
        if _DEFLATE in wrappings:
            data = _inflate(data, self.limits.max_bytes)
        if len(data) > self.limits.max_bytes:
            raise UnreadableMessage(f"the payload has more than {self.limits.max_bytes:,} bytes")
        return data

    def _decrypt(self, data: bytes) -> bytes:
        if self._fernet is None:
            raise UnreadableMessage("the payload is encrypted, and this process has no encryption key")
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(base64.urlsafe_b64encode(data))
        except InvalidToken:
            raise UnreadableMessage(
                "the payload was encrypted with a key that this process does not have, or was changed since"
            ) from None


def checksum(canonical: bytes) -> str:
    """SHA-256 of a payload's canonical JSON, in hex."""
    return hashlib.sha256(canonical).hexdigest()


def _inflate(data: bytes, max_bytes: int) -> bytes:
    """Never more than ``max_bytes`` in memory, whatever the data claims to be."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise UnreadableMessage(f"the payload cannot be decompressed: {error}") from None
    if len(plain) > max_bytes:
        raise UnreadableMessage(f"the payload is more than {max_bytes:,} bytes when decompressed")
    if not inflater.eof:
        raise UnreadableMessage("the payload's compressed data ends early")
    return plain


def _check_payload(payload: Any, max_depth: int) -> None:
    """What orjson would write as something else, or not read back: NaN as null, keys that are no text."""
    level: list[Any] = [payload]
    for _ in range(max_depth + 1):
        # Most of a payload is text and whole numbers: one look at the types of a whole level.
        if _PLAIN.issuperset(map(type, level)):
            return
        following: list[Any] = []
        for value in level:
            kind = type(value)
            if kind in _PLAIN:
                continue
            if kind is dict:
                if not _TEXT.issuperset(map(type, value)):
                    key = next(key for key in value if type(key) is not str)
                    raise InvalidMessage.of("payload", f"has the key {key!r:.40}; JSON's keys are text")
                following.extend(value.values())
            elif kind is list or kind is tuple:
                following.extend(value)
            elif kind is float:
                if not math.isfinite(value):
                    raise InvalidMessage.of(
                        "payload", f"holds {value}, which JSON has no word for; send null or text"
                    )
            elif kind is bytes or kind is bytearray:
                raise InvalidMessage.of("payload", "holds bytes; JSON has none: send them as base64 text")
            else:
                raise InvalidMessage.of(
                    "payload",
                    f"holds a {kind.__name__}; only dict, list, str, int, float, bool and None are JSON",
                )
        level = following
    if level:
        raise InvalidMessage.of("payload", f"is nested deeper than {max_depth} levels; flatten it")


def _build_fernet(keys: Sequence[str]) -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        raise InvalidSettings.of(
            "messaging.encryption_keys", "needs: pip install 'pynomaly-tasks[encryption]'"
        ) from None
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except (ValueError, TypeError):
        # The library's own message may hold a piece of the key.
        raise InvalidSettings.of(
            "messaging.encryption_keys",
            "has a key that is not 32 bytes in URL-safe base64; Fernet.generate_key() makes one",
        ) from None

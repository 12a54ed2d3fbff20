from __future__ import annotations

import base64
import zlib
from typing import Any

import orjson
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.errors import InvalidSettings, UnreadableMessage
from pynomaly_tasks.messaging import Codec, CodecLimits, Guarantee, Message

KEYS = [Fernet.generate_key().decode() for _ in range(2)]
CODECS = {
    "plain": Codec(),
    "compressed": Codec(limits=CodecLimits(compress_above_bytes=0)),
    "encrypted": Codec(keys=KEYS),
    "both": Codec(limits=CodecLimits(compress_above_bytes=0), keys=KEYS),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def _encode(codec: Codec, payload: Any, **fields: Any) -> bytes:
    return codec.encode(Message(payload=payload, **fields), codec.canonical(payload))


@pytest.mark.parametrize("name", CODECS)
@given(payload=JSON, priority=st.integers(0, 255), guarantee=st.sampled_from(Guarantee))
def test_what_was_written_is_read(name: str, payload: Any, priority: int, guarantee: Guarantee) -> None:
    codec = CODECS[name]
    message = Message(
        payload=payload, priority=priority, guarantee=guarantee, headers={"a": "ü"}, topic="a.b", queue="q"
    )

    assert codec.decode(codec.encode(message, codec.canonical(payload)), queue="q") == message


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_changed_bytes_are_read_as_they_were_or_refused(name: str, data: st.DataObject) -> None:
    codec = CODECS[name]
    payload = {"amount": 100, "to": "alice"}
    body = bytearray(_encode(codec, payload))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))

    try:
        read = codec.decode(bytes(body), queue="q")
    except UnreadableMessage:
        return
    # The change hit the head, not the payload.
    assert read.payload == payload


@pytest.mark.parametrize("name", CODECS)
def test_part_of_an_envelope_is_refused(name: str) -> None:
    body = _encode(CODECS[name], {"a": 1})

    for length in range(len(body)):
        with pytest.raises(UnreadableMessage):
            CODECS[name].decode(body[:length], queue="q")


def test_tampered_payload_is_refused_naming_the_checksum() -> None:
    body = _encode(CODECS["plain"], {"amount": 100}).replace(b"100", b"999")

    with pytest.raises(UnreadableMessage, match=r"checksum \(sha256\) does not match"):
        CODECS["plain"].decode(body, queue="q")


def test_checksum_does_not_depend_on_the_order_of_keys() -> None:
    codec = CODECS["plain"]

    assert codec.canonical({"b": {"y": 1, "x": 2}, "a": 1}) == codec.canonical(
        {"a": 1, "b": {"x": 2, "y": 1}}
    )


def test_encrypted_payload_is_not_on_the_wire_and_keys_rotate() -> None:
    old, both, new = Codec(keys=KEYS[1:]), Codec(keys=KEYS), Codec(keys=KEYS[:1])
    body = _encode(old, {"card": "4111"})

    assert b"4111" not in body
    assert both.decode(body, queue="q").payload == {"card": "4111"}
    assert new.decode(_encode(both, 1), queue="q").payload == 1
    with pytest.raises(UnreadableMessage, match="a key that this process does not have"):
        new.decode(body, queue="q")
    with pytest.raises(UnreadableMessage, match="has no encryption key"):
        Codec().decode(body, queue="q")


def test_only_large_payloads_are_compressed() -> None:
    codec = Codec(limits=CodecLimits(compress_above_bytes=1_000))

    assert b'"payload":"small"' in _encode(codec, "small")
    assert len(_encode(codec, "x" * 100_000)) < 2_000


@pytest.mark.large
def test_compressed_bomb_never_unfolds() -> None:
    bomb = base64.b64encode(zlib.compress(b" " * 200_000_000, 9)).decode()
    body = orjson.dumps({"v": 1, "sha256": "", "wrapped": ["deflate"], "data": bomb})

    with pytest.raises(UnreadableMessage, match="more than 1,048,576 bytes when decompressed"):
        CODECS["compressed"].decode(body, queue="q")


@pytest.mark.parametrize(
    "change",
    [
        {"wrapped": ["rot13"], "data": ""}, {"wrapped": "deflate", "data": ""}, {"wrapped": ["deflate"], "data": "?"},
        {"wrapped": ["deflate"], "data": 7}, {"wrapped": ["deflate"]}, {"priority": 900}, {"priority": "high"},
        {"headers": []}, {"guarantee": "always"}, {"guarantee": []}, {"id": 7}, {"id": ""}, {"topic": "a b"}, {"ttl_s": -1},
        {"v": None}, {"sha256": None},
    ],
)  # fmt: skip
def test_envelope_of_somebody_else_is_refused(change: dict[str, Any]) -> None:
    head = orjson.loads(_encode(CODECS["plain"], 1)) | change

    with pytest.raises(UnreadableMessage):
        CODECS["plain"].decode(orjson.dumps(head), queue="q")


@pytest.mark.parametrize("key", ["", "short", "x" * 44, "\u00fc" * 44])
def test_bad_encryption_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidSettings, match="encryption_keys") as caught:
        Codec(keys=[key])

    assert key == "" or key not in str(caught.value)

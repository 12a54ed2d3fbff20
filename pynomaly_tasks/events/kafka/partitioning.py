"""The partition of a key, as Kafka's Java clients choose it, so that all clients agree."""

from __future__ import annotations

import struct
from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


@lru_cache(65_536)
def key_hash(key: bytes) -> int:
    """MurmurHash2 of Kafka's Java client, made positive.

    >>> key_hash(b"21")
    1173551340
    """
    n_words = len(key) // 4
    hashed = _SEED ^ len(key)
    for word in struct.unpack_from(f"<{n_words}I", key):
        mixed = word * _M & _MASK
        mixed = (mixed ^ mixed >> 24) * _M & _MASK
        hashed = hashed * _M & _MASK ^ mixed
    if rest := key[n_words * 4 :]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _M & _MASK
    hashed = (hashed ^ hashed >> 13) * _M & _MASK
    return (hashed ^ hashed >> 15) & 0x7FFFFFFF

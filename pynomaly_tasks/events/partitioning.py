"""Which partition a key falls into: the same one as Kafka's own clients choose, in every log."""

from __future__ import annotations

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_UINT32 = 0xFFFFFFFF


def partition_of(key: bytes, n_partitions: int) -> int:
    """The partition of a key, from 0.

    >>> partition_of(b"018f3c1e", 5) == partition_of(b"018f3c1e", 5)
    True
    """
    return (murmur2(key) & 0x7FFFFFFF) % n_partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 by Austin Appleby, 32 bits, with the seed that Kafka's clients use; unsigned.

    >>> murmur2(b"21")  # as Kafka's own tests have it, where it is signed: -973932308
    3321034988
    """
    hashed = _SEED ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _MULTIPLIER & _UINT32
        word = (word ^ word >> 24) * _MULTIPLIER & _UINT32
        hashed = hashed * _MULTIPLIER & _UINT32 ^ word
    if rest := data[whole:]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _UINT32
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _UINT32
    return hashed ^ hashed >> 15

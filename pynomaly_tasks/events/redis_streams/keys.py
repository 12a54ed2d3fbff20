"""The log's keys in Redis, and its offsets as numbers."""

from __future__ import annotations

from pynomaly_tasks.events.ports import Partition

COUNTS = "events:counts"  #: hash, no expiry: how many records each partition was given

#: Bits of an offset that number the entries of one millisecond; appending never needs more.
_NUMBER_BITS = 20
_NUMBERS = 1 << _NUMBER_BITS


def stream(partition: Partition) -> str:
    """The stream that is this partition."""
    return f"events:{partition.topic}:{partition.number}"


def field(partition: Partition) -> str:
    """The partition in the hashes of leases, offsets and counts."""
    return f"{partition.topic}:{partition.number}"


def partition_of_field(text: str) -> Partition:
    """What `field` wrote."""
    topic, _, number = text.rpartition(":")
    return Partition(topic, int(number))


def groups(topic: str) -> str:
    """Set, no expiry: the groups whose offsets keep a topic's records."""
    return f"events:groups:{topic}"


def offsets(group: str) -> str:
    """Hash, no expiry: partition to the id of the first entry that the group has not applied."""
    return f"events:group:{group}:offsets"


def members(group: str) -> str:
    """Hash that expires: the group's members with the end of their leases and their topics."""
    return f"events:group:{group}:members"


def leases(group: str) -> str:
    """Hash that expires: partition to the end of its lease and the member that reads it."""
    return f"events:group:{group}:leases"


def changes(group: str) -> str:
    """Stream of one entry that expires: written when the group's leases may be shared out anew."""
    return f"events:group:{group}:changes"


def offset_of(entry_id: bytes | str) -> int:
    """An entry's id as a number that sorts alike.

    >>> offset_of("1700000000000-7") == (1700000000000 << 20) + 7
    True
    """
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    at_ms, _, number = text.partition("-")
    return (int(at_ms) << _NUMBER_BITS) + int(number or 0)


def entry_id_of(offset: int) -> str:
    """The id again.

    >>> entry_id_of(offset_of("1700000000000-1048575"))
    '1700000000000-1048575'
    """
    return f"{offset >> _NUMBER_BITS}-{offset % _NUMBERS}"

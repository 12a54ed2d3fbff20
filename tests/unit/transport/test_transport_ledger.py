"""What the ledger remembers, without a server."""

from __future__ import annotations

import redis

from pynomaly_tasks.transport.ledger import Keys, Ledger


def make_ledger() -> Ledger:
    # Nothing listens on port 1; nothing is asked of it.
    client = redis.Redis(port=1)
    keys = Keys(unacked="unacked", index="unacked_index", pulse="unacked_pulse")
    return Ledger(client, keys, lease_s=60.0, is_consuming=lambda: False)


def test_tags_sort_as_they_were_taken_and_are_never_shared() -> None:
    ledger, other = make_ledger(), make_ledger()

    first, second = ledger.numbers(100), ledger.numbers(1)
    tags = [ledger.tag(number, "q") for number in range(first, second + 1)]

    assert tags == sorted(tags)
    assert len(set(tags)) == 101
    assert other.tag(first, "q") not in tags


def test_acknowledgements_are_taken_along_once_and_in_order() -> None:
    ledger = make_ledger()
    ledger._acks.extend(["a", "b", "c"])

    assert ledger.take_acknowledgements(2) == ["a", "b"]
    assert ledger.take_acknowledgements(2) == ["c"]
    assert ledger.take_acknowledgements(2) == []

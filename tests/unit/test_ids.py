"""Identifiers are what their standard says."""

from __future__ import annotations

import time
from uuid import RFC_4122, UUID

from pynomaly_tasks.core.ids import new_id


def test_new_ids_are_uuids_of_version_7_with_the_time_in_front() -> None:
    before = time.time_ns() // 1_000_000

    ids = [new_id() for _ in range(1_000)]

    after = time.time_ns() // 1_000_000
    for text in ids:
        uuid = UUID(text)
        assert (str(uuid), uuid.version, uuid.variant) == (text, 7, RFC_4122)
        assert before <= uuid.int >> 80 <= after
    assert len(set(ids)) == 1_000

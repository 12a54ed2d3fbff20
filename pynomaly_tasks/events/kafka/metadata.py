"""Whether Kafka has the topics that a client needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

#: A topic that was created a moment ago is not known to every broker yet.
NEW_TOPIC_WAIT_S = 3.0
_RETRY_S = 0.1


async def wait_for_topics(
    client: Any, topics: Collection[str], wait_s: float = NEW_TOPIC_WAIT_S
) -> list[str]:
    """Which of the topics do not exist; waits a little for those that are new.

    Waits without an end for a Kafka that does not answer at all.
    """
    end_s = time.monotonic() + min(wait_s, NEW_TOPIC_WAIT_S)
    for topic in topics:
        client.add_topic(topic)
    while True:
        if not (missing := [topic for topic in topics if not client.cluster.partitions_for_topic(topic)]):
            return []
        was_answered = await client.force_metadata_update()
        missing = [topic for topic in topics if not client.cluster.partitions_for_topic(topic)]
        if not missing or (was_answered and time.monotonic() >= end_s):
            return missing
        await asyncio.sleep(_RETRY_S)

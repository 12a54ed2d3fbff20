"""What aiokafka logs, said once in a while: while Kafka is away it repeats itself a hundred times a second."""

from __future__ import annotations

import logging
import time
from functools import cache

_EVERY_S = 30.0
_NAMES = (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.consumer",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
)


class _Seldom(logging.Filter):
    """Lets a message pass once in a while, whatever its arguments; tracebacks always."""

    def __init__(self) -> None:
        super().__init__()
        self._next_at_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            return True
        message, now_s = str(record.msg), time.monotonic()
        if self._next_at_s.get(message, 0.0) > now_s:
            return False
        self._next_at_s[message] = now_s + _EVERY_S
        return True


@cache
def calm_client_logs() -> None:
    """For the loggers of aiokafka in this process."""
    for name in _NAMES:
        logging.getLogger(name).addFilter(_Seldom())

"""Identifiers."""

from __future__ import annotations

import os
import time
from uuid import UUID


def new_job_id() -> str:
    """A UUID version 7 (RFC 9562): unique anywhere, and sorted by creation time to the millisecond."""
    value = int.from_bytes(os.urandom(16), "big")
    milliseconds = time.time_ns() // 1_000_000
    value &= (1 << 80) - 1
    value |= milliseconds << 80
    value &= ~(0xF << 76) & ~(0x3 << 62)
    value |= (0x7 << 76) | (0x2 << 62)
    return str(UUID(int=value))

"""Identifiers."""

from __future__ import annotations

import os
import re
import time

#: An id names directories and files, so it must not be a path.
_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")

#: Of a UUID's last 80 bits: what is random, and the rest, version and variant.
_CHANCE = 0x0FFF_3FFF_FFFF_FFFF_FFFF
_VERSION_7 = 0x7000_8000_0000_0000_0000


def is_job_id(text: str) -> bool:
    """Whether a job may have this id: letters, digits, ``_``, ``-`` and ``.``, at most 200, the first no mark."""
    return _JOB_ID.fullmatch(text) is not None


def new_id() -> str:
    """A UUID version 7 (RFC 9562): unique anywhere, and sorted by creation time to the millisecond."""
    chance = int.from_bytes(os.urandom(10), "big") & _CHANCE
    value = (time.time_ns() // 1_000_000) << 80 | chance | _VERSION_7
    # As str(UUID(int=value)) writes it, without the object: every event has an id.
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

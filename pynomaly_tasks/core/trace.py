"""W3C Trace Context, as far as events carry it."""

from __future__ import annotations

import re
from hashlib import sha256

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(text: str) -> bool:
    """Whether the text is a valid ``traceparent``; what is not, the standard says, is ignored.

    >>> is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    True
    >>> is_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01")
    False
    """
    return _TRACEPARENT.fullmatch(text) is not None


def traceparent_of(root_id: str, job_id: str) -> str:
    """The trace of a job that nobody gave one: all jobs of a chain are one trace, each is a span of it.

    Always the same for the same ids; marked as not sampled, because no span was recorded.
    """
    trace = sha256(root_id.encode()).hexdigest()[:32]
    span = sha256(b"span " + job_id.encode()).hexdigest()[:16]
    return f"00-{trace}-{span}-00"

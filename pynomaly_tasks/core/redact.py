"""Keeping secrets out of what people and logs see."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^:/@?]*):[^@/]*@")
_QUERY_VALUE = re.compile(r"([?&][^=&]+)=[^&]*")


def mask_url(url: str) -> str:
    """The URL with its password and its query's values masked.

    >>> mask_url("redis://user:secret@host:6379/1?password=x")
    'redis://user:***@host:6379/1?password=***'
    >>> mask_url("sqlite:////data/jobs.sqlite3")
    'sqlite:////data/jobs.sqlite3'
    """
    return _QUERY_VALUE.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", url))

"""Keeping secrets out of what people and logs see."""

from __future__ import annotations

import re

# Up to the last "@": a password that was not percent-encoded may hold "/", "?" and "@" itself.
_USER_INFO = re.compile(r"(?<=://)(?!/)([^:/?@]*)(:?).*@", re.DOTALL)
_QUERY_VALUE = re.compile(r"([?&])([^=&]*)=?[^&]*")
#: Where a name without a password is more likely a password without a name.
_NAMELESS = ("redis://", "rediss://")


def mask_url(url: str) -> str:
    """The URL with its password and its query's values masked.

    >>> mask_url("redis://user:secret@host:6379/1?password=x")
    'redis://user:***@host:6379/1?password=***'
    >>> mask_url("redis://:not/en?coded@all@host")
    'redis://:***@host'
    >>> mask_url("redis://secret@host"), mask_url("postgresql://user@host/jobs")
    ('redis://***@host', 'postgresql://user@host/jobs')
    >>> mask_url("sqlite:////data/me@home/jobs.sqlite3")
    'sqlite:////data/me@home/jobs.sqlite3'
    """

    def masked(found: re.Match[str]) -> str:
        name, colon = found.groups()
        if not colon and url.startswith(_NAMELESS):
            return "***@"
        return f"{name}:***@" if colon else found.group()

    return _QUERY_VALUE.sub(_masked_value, _USER_INFO.sub(masked, url))


def _masked_value(found: re.Match[str]) -> str:
    separator, name = found.groups()
    return f"{separator}{name}=***" if "=" in found.group() else f"{separator}***"

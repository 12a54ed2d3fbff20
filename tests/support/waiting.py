"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout_s: float, what: str, *, every_s: float = 0.02) -> T:
    """The predicate's first true value.

    Fails the test after ``timeout_s``, saying ``what`` was waited for and what was seen last. An
    exception of the predicate ends the wait at once: it is not "not yet".
    """
    end = time.monotonic() + timeout_s
    while True:
        if value := predicate():
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"waited {timeout_s:g} s for {what}; the last value seen was {value!r}")
        time.sleep(every_s)

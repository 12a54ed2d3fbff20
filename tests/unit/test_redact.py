"""No part of a password is left in what is shown of an address."""

from __future__ import annotations

import doctest

import pytest

from pynomaly_tasks.core import redact
from pynomaly_tasks.core.redact import mask_url


def test_examples_of_the_docstring_hold() -> None:
    assert doctest.testmod(redact).failed == 0


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@host:6379/1",
        "redis://user:s3cret@host",
        "redis://s3cret@host",
        "rediss://:a/s3cret/b@host:6380/1",
        "rediss://:a@s3cret@host",
        "redis://:a?s3cret@host",
        "redis://:a#s3cret@host",
        "redis://:a:s3cret@host",
        "redis://host/1?password=s3cret&db=s3cret",
        "redis://host/1?s3cret",
        "postgresql+psycopg://user:s3cret@host:5432/jobs?sslpassword=s3cret",
        "s3://key:s3cret@bucket/prefix",
    ],
)
def test_no_secret_is_left(url: str) -> None:
    masked = mask_url(url)

    assert "s3cret" not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "text",
    [
        "redis://127.0.0.1:6379/1",
        "sqlite:////data/jobs@home.sqlite3",
        "postgresql+psycopg://user@host/jobs",
        "s3://bucket/prefix",
        "unix:///run/redis.sock",
        "/data/artifacts",
        "info",
        "",
    ],
)
def test_what_holds_no_secret_is_shown_as_it_is(text: str) -> None:
    assert mask_url(text) == text

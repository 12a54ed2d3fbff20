from __future__ import annotations

import subprocess
import sys

import pytest
import structlog
from pydantic import SecretStr

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.senders import build_channels


def test_log_is_always_among_the_channels() -> None:
    channels = build_channels({"ops": SecretStr("json://127.0.0.1")}, timeout_s=1)

    assert channels.names() == ("log", "ops")
    assert build_channels({}, timeout_s=1).names() == ("log",)
    assert channels.find("nobody") is None


def test_log_channel_writes_subject_and_body() -> None:
    channel = build_channels({}, timeout_s=1).find("log")

    with structlog.testing.capture_logs() as logs:
        channel.send("Subject", "Body")  # type: ignore[union-attr]

    assert logs == [{"event": "notification", "subject": "Subject", "body": "Body", "log_level": "info"}]


@pytest.mark.parametrize("url", ["", "hello", "nosuch://s3cret", "discord://s3cret", "json://"])
def test_a_url_that_cannot_be_used_is_named_by_its_setting_and_never_shown(url: str) -> None:
    channels = build_channels({"ops": SecretStr(url)}, timeout_s=1)

    with pytest.raises(InvalidSettings, match=r"notifications\.channels\.ops") as wrong:
        channels.find("ops")
    with pytest.raises(InvalidSettings):
        channels.check()

    assert "s3cret" not in f"{wrong.value} {channels!r}"


@pytest.mark.large
def test_no_part_of_a_url_reaches_the_log_even_when_everything_is_logged() -> None:
    code = """
import logging; logging.basicConfig(level=1)
from pydantic import SecretStr
from pynomaly_tasks.errors import PynomalyError
from pynomaly_tasks.senders import build_channels
urls = ["json://user:s3cret-1@127.0.0.1:1/s3cret-2?:key=s3cret-3", "nosuch://s3cret-4", "discord://s3cret-5"]
channels = build_channels({str(n): SecretStr(url) for n, url in enumerate(urls)}, timeout_s=2)
logging.getLogger().info("logging works")
for name in "012":
    try:
        channels.find(name).send("subject", "body")
    except PynomalyError as error:
        print(type(error).__name__, error)
"""

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("DeliveryFailed channel 0: the service could not be reached")
    assert done.stdout.count("InvalidSettings") == 2
    assert "logging works" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr

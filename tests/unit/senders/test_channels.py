from __future__ import annotations

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
def test_a_url_that_cannot_be_used_is_named_by_its_setting_and_never_shown(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    channels = build_channels({"ops": SecretStr(url)}, timeout_s=1)

    with caplog.at_level(0), pytest.raises(InvalidSettings, match=r"notifications\.channels\.ops") as wrong:
        channels.find("ops")
    with pytest.raises(InvalidSettings):
        channels.check()

    assert "s3cret" not in f"{wrong.value} {caplog.text} {channels!r}"

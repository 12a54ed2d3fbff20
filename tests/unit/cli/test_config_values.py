"""What ``config show`` prints can be read by people and by a shell, and holds no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from pynomaly_tasks.cli.config import settings_lines
from pynomaly_tasks.settings import Settings, load_settings

SECRETS = {
    "REDIS__URL": "redis://:s3cret@h:6379",
    "REDIS__BROKER_URL": "rediss://u:s3cret@h/1",
    "REDIS__RESULTS_URL": "redis://s3cret@h/2",
    "REDIS__STREAMS_URL": "redis://h/3?password=s3cret",
    "STORE__URL": "postgresql+psycopg://u:s3cret@h/d",
    "DATA__ARTIFACTS_URL": "s3://key:s3cret@bucket/prefix",
    "WEB__API_KEY": "s3cret" * 8,
    "NOTIFICATIONS__CHANNELS": '{"ops": "mailto://u:s3cret@h", "chat": "slack://s3cret/s3cret/s3cret"}',
}


pytestmark = pytest.mark.usefixtures("no_settings")


def test_no_secret_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(f"PYNOMALY_{name}", value)

    text = "\n".join(settings_lines(load_settings()))

    assert "s3cret" not in text
    for name in SECRETS:
        assert f"PYNOMALY_{name}=" in text
    assert 'PYNOMALY_NOTIFICATIONS__CHANNELS={"ops":"***","chat":"***"}' in text
    assert "PYNOMALY_STORE__URL=postgresql+psycopg://u:***@h/d" in text


def test_every_setting_is_printed_the_unset_ones_as_comments() -> None:
    lines = list(settings_lines(Settings()))

    n_fields = sum(len(type(getattr(Settings(), section)).model_fields) for section in Settings.model_fields)
    assert len(lines) == n_fields
    assert "# PYNOMALY_STORE__URL is not set" in lines
    assert "PYNOMALY_JOBS__LEASE_S=20.0" in lines


def test_what_is_printed_can_be_given_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYNOMALY_DATA__ROOTS", f'["{tmp_path}/a b", "/c"]')
    monkeypatch.setenv("PYNOMALY_WORKERS__RUN_MAINTENANCE", "false")
    before = load_settings()

    for line in settings_lines(before):
        if not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))

    assert load_settings() == before

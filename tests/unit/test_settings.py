"""Settings come from the environment, are checked against one another, and never show a secret."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.settings import EMBEDDED_ENV_FILE, Settings, current_settings

Load = Callable[..., Settings]


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"])
def test_variable_that_celery_would_obey_is_refused(
    load: Load, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "redis://elsewhere/0")

    with pytest.raises(InvalidSettings, match=f"{name}.*unset it, and set PYNOMALY_REDIS__"):
        load()


def _problems(load: Load, **variables: str) -> dict[str, str]:
    with pytest.raises(InvalidSettings) as raised:
        load(**variables)
    return {problem.field: problem.message for problem in raised.value.problems}


def test_no_variable_is_needed(load: Load) -> None:
    settings = load()

    assert settings.redis.broker() == "redis://127.0.0.1:6379/1"
    assert settings.redis.results() == "redis://127.0.0.1:6379/2"
    assert settings.redis.streams() == "redis://127.0.0.1:6379/3"
    assert settings.store_url() == f"sqlite:///{Path.cwd()}/.pynomaly/jobs.sqlite3"


def test_section_and_field_are_named_by_the_variable(load: Load) -> None:
    settings = load(JOBS__LEASE_S="5", DATA__ROOTS='["/a", "/b"]', STORE__URL="postgresql+psycopg://u@h/d")

    assert settings.jobs.lease_s == 5
    assert settings.data.roots == (Path("/a"), Path("/b"))
    assert settings.store_url() == "postgresql+psycopg://u@h/d"


def test_each_redis_database_can_be_a_server_of_its_own(load: Load) -> None:
    settings = load(
        REDIS__BROKER_URL="redis://b/5", REDIS__RESULTS_URL="rediss://r/6", REDIS__STREAMS_URL="redis://s/7"
    )

    assert (settings.redis.broker(), settings.redis.results(), settings.redis.streams()) == (
        "redis://b/5",
        "rediss://r/6",
        "redis://s/7",
    )


def test_options_of_the_redis_url_stay_behind_the_number_of_the_database(load: Load) -> None:
    redis = load(REDIS__URL="rediss://h:6380?ssl_ca_certs=/ca.pem").redis

    assert redis.broker() == "rediss://h:6380/1?ssl_ca_certs=/ca.pem"
    assert redis.streams() == "rediss://h:6380/3?ssl_ca_certs=/ca.pem"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"JOBS__TIME_LIMIT_S": "20000"}, ("jobs.time_limit_s (20000)", "jobs.max_time_limit_s (14400)")),
        (
            {"JOBS__LEASE_S": "1", "JOBS__HEARTBEATS_PER_LEASE": "20"},
            ("jobs.lease_s (1)", "jobs.heartbeats_per_lease (20)", "0.2 s"),
        ),
        ({"WEB__HOST": "0.0.0.0"}, ("web.host (0.0.0.0)", "web.api_key")),
        ({"REDIS__URL": "http://h"}, ("redis.url", "http://", "redis:// or rediss://")),
        ({"REDIS__BROKER_URL": "redis+cluster://h"}, ("redis.broker_url", "Cluster", "Sentinel")),
        ({"REDIS__STREAMS_URL": "amqp://h"}, ("redis.streams_url", "amqp://")),
        ({"STORE__URL": "mysql://h/d"}, ("store.url", "mysql://", "postgresql+psycopg://")),
    ],
)
def test_contradiction_names_both_fields(
    load: Load, variables: dict[str, str], named: tuple[str, ...]
) -> None:
    message = " ".join(_problems(load, **variables).values())

    for words in named:
        assert words in message


def test_host_beside_loopback_is_fine_with_an_api_key(load: Load) -> None:
    assert load(WEB__HOST="0.0.0.0", WEB__API_KEY="k" * 32).web.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("JOBS__LEASE_S", "0", "jobs.lease_s"),
        ("JOBS__LEASE_S", "nan", "jobs.lease_s"),
        ("JOBS__LEASE_S", "inf", "jobs.lease_s"),
        ("JOBS__LEASE_S", "soon", "jobs.lease_s"),
        ("JOBS__MAX_LOST_ATTEMPTS", "0", "jobs.max_lost_attempts"),
        ("WEB__PORT", "70000", "web.port"),
        ("WORKERS__CPU_CONCURRENCY", "0", "workers.cpu_concurrency"),
        ("DATA__KEEP_RESULTS_DAYS", "-1", "data.keep_results_days"),
        ("LOG__LEVEL", "loud", "log.level"),
        ("JOBS__LEASE", "5", "jobs.lease"),
        ("REDIS__PASWORD", "x", "redis.pasword"),
    ],
)
def test_wrong_or_unknown_variable_is_named(load: Load, variable: str, value: str, field: str) -> None:
    assert field in _problems(load, **{variable: value})


def test_every_wrong_variable_is_named_at_once(load: Load) -> None:
    problems = _problems(load, JOBS__LEASE_S="0", WEB__PORT="-1", LOG__FORMAT="xml")

    assert set(problems) == {"jobs.lease_s", "web.port", "log.format"}


def test_list_that_is_not_json_is_named(load: Load) -> None:
    with pytest.raises(InvalidSettings, match=r"data.*JSON"):
        load(DATA__ROOTS="/a:/b")


SECRETS = {
    "REDIS__URL": "redis://:s3cret-redis@h:6379",
    "REDIS__BROKER_URL": "redis://:s3cret-broker@h/1",
    "REDIS__RESULTS_URL": "redis://:s3cret-results@h/2",
    "REDIS__STREAMS_URL": "redis://:s3cret-streams@h/3",
    "STORE__URL": "postgresql+psycopg://u:s3cret-store@h/d",
    "WEB__API_KEY": "s3cret-key",
    "NOTIFICATIONS__CHANNELS": '{"ops": "mailto://u:s3cret-mail@h"}',
}


def test_no_secret_is_in_what_is_printed_or_dumped(load: Load) -> None:
    settings = load(**SECRETS)

    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "s3cret" not in shown
    assert "s3cret-redis" in settings.redis.url.get_secret_value()


def test_no_secret_is_in_an_error(load: Load) -> None:
    with pytest.raises(InvalidSettings) as raised:
        load(
            **{**SECRETS, "STORE__URL": "mysql://u:s3cret-store@h/d", "REDIS__URL": "http://:s3cret-redis@h"}
        )

    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("value", ['["mailto://u:s3cret-mail@h"]', "mailto://u:s3cret-mail@h"])
def test_wrong_secret_itself_is_not_shown(load: Load, value: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        load(NOTIFICATIONS__CHANNELS=value)

    assert "s3cret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_file_of_a_running_embedded_platform_is_read_and_the_environment_wins(
    load: Load, tmp_path: Path
) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / EMBEDDED_ENV_FILE).write_text(
        f"# pid {os.getpid()}\nPYNOMALY_REDIS__URL=redis://127.0.0.1:7001\nPYNOMALY_WEB__PORT=7002\n"
    )

    settings = load(DATA__DIRECTORY=str(directory), WEB__PORT="7003")

    assert settings.redis.broker() == "redis://127.0.0.1:7001/1"
    assert settings.web.port == 7003


def test_settings_cannot_be_changed(load: Load) -> None:
    settings = load()

    with pytest.raises(ValidationError, match="frozen"):
        settings.jobs.lease_s = 1  # type: ignore[misc]  # what the test is about


def test_settings_of_a_process_are_read_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    current_settings.cache_clear()
    first = current_settings()

    monkeypatch.setenv("PYNOMALY_JOBS__LEASE_S", "7")

    assert current_settings() is first


def test_file_of_a_platform_that_ended_is_not_read(load: Load, tmp_path: Path) -> None:
    (tmp_path / EMBEDDED_ENV_FILE).write_text("# pid 999999999\nPYNOMALY_REDIS__URL=redis://127.0.0.1:7001\n")

    assert load(DATA__DIRECTORY=str(tmp_path)).redis.broker() == "redis://127.0.0.1:6379/1"

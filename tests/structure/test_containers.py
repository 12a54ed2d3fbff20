"""Procfile, docker-compose.yml and config/ say the same thing as the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pynomaly_tasks.cli import pynomaly
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.settings import Settings

ROOT = Path(__file__).parents[2]
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
NEIGHBOURS = {"redis", "kafka", "postgres"}
ONCE = {"kafka-topics"}  #: ends when its work is done
CELERY_NODES = {name for name, command in PROCFILE.items() if "-n " in command}
EVENTS = {name for name in PROCFILE if name == "relay" or name.startswith("consumer-")}


def _module(command: str) -> str:
    words = shlex.split(command)
    return words[words.index("-A" if "-A" in words else "-m") + 1]


def test_each_line_of_the_procfile_is_a_service_and_nothing_else_is() -> None:
    assert set(SERVICES) - NEIGHBOURS - ONCE == set(PROCFILE)
    assert {name: SERVICES[name]["command"] for name in PROCFILE} == PROCFILE


@pytest.mark.parametrize("process", sorted(PROCFILE))
def test_each_command_names_a_module_that_exists(process: str) -> None:
    assert importlib.util.find_spec(_module(PROCFILE[process])) is not None


def test_each_worker_module_has_its_line() -> None:
    modules = {f"workers.{path.stem}" for path in (ROOT / "workers").glob("[a-z]*.py")}

    # `all` stands for every worker at once, `events` for the relay and all consumers, on one machine.
    assert modules - {"workers.all", "workers.events"} == set(map(_module, PROCFILE.values()))


@pytest.mark.parametrize("service", sorted(set(SERVICES) - ONCE))
def test_each_service_has_a_health_check_and_comes_back(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"]
    assert SERVICES[service]["healthcheck"]["interval"]
    assert SERVICES[service]["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", sorted(EVENTS))
def test_relay_and_consumers_start_once_the_topics_are_there_and_show_that_they_live(service: str) -> None:
    port = SERVICES[service]["environment"]["PYNOMALY_METRICS__PORT"]

    assert SERVICES[service]["depends_on"]["kafka-topics"] == {"condition": "service_completed_successfully"}
    assert f"127.0.0.1:{port}/metrics" in SERVICES[service]["healthcheck"]["test"][-1]


def test_topics_are_made_by_a_command_that_exists() -> None:
    program, group, command = SERVICES["kafka-topics"]["command"].split()
    found = pynomaly.commands[group]

    assert program == "pynomaly"
    assert isinstance(found, click.Group)
    assert command in found.commands
    assert SERVICES["kafka-topics"]["restart"] == "on-failure"
    assert SERVICES["kafka-topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}


@pytest.mark.parametrize("service", sorted(CELERY_NODES))
def test_health_check_pings_the_node_that_the_command_names(service: str) -> None:
    node = re.search(r"-n (\w+)@%h", PROCFILE[service])
    check = SERVICES[service]["healthcheck"]["test"][1]

    assert node is not None
    assert check.endswith(f"-d {node[1]}@$$HOSTNAME")
    assert _module(check) == _module(PROCFILE[service])


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_each_image_is_pinned(service: str) -> None:
    assert re.search(r":\d+\.\d+", SERVICES[service]["image"])


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_each_service_keeps_its_data_in_a_declared_volume(service: str) -> None:
    named = {volume.split(":")[0] for volume in SERVICES[service]["volumes"]}

    assert {name for name in named if not name.startswith("./")} & set(COMPOSE["volumes"])
    assert all((ROOT / name).exists() for name in named if name.startswith("./"))


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("service", sorted(PROCFILE))
def test_environment_of_each_service_makes_valid_settings(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    example = _read_env(ROOT / "config" / "production.env.example")
    environment = example | {name: str(value) for name, value in SERVICES[service]["environment"].items()}
    for name, value in environment.items():
        monkeypatch.setenv(name, re.sub(r"\$\{(\w+):\?[^}]*\}", lambda m: example[m[1]], value))

    settings = Settings()

    assert settings.redis.broker() == "redis://:change-me@redis:6379/1"
    assert settings.store_url() == "postgresql+psycopg://pynomaly:change-me@postgres:5432/pynomaly"
    assert settings.web.api_key is not None
    assert settings.events.backend == "kafka"
    assert settings.kafka.bootstrap_servers == SERVICES["kafka"]["environment"][
        "KAFKA_ADVERTISED_LISTENERS"
    ].removeprefix("PLAINTEXT://")


def test_commented_settings_of_the_example_are_valid_too(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    example = _read_env(ROOT / "config" / "production.env.example", commented=True)
    for name, value in example.items():
        monkeypatch.setenv(name, value)

    assert Settings().redis.broker().startswith("rediss://")


def _read_env(path: Path, *, commented: bool = False) -> dict[str, str]:
    pattern = r"^#?([A-Z][A-Z0-9_]*)=(.*)$" if commented else r"^([A-Z][A-Z0-9_]*)=(.*)$"
    return dict(re.findall(pattern, path.read_text(), re.MULTILINE))


def test_every_variable_of_the_example_is_a_setting() -> None:
    documented = (ROOT / "docs" / "configuration.md").read_text()
    example = _read_env(ROOT / "config" / "production.env.example", commented=True)

    assert [n for n in example if n.startswith("PYNOMALY_") and f"`{n}`" not in documented] == []


def test_redis_takes_its_configuration_and_keeps_what_it_must(tmp_path: Path) -> None:
    lines = (ROOT / "config" / "redis.conf").read_text().splitlines()
    # What the container's network and file system decide is given by the embedded server itself.
    kept = [
        line for line in lines if line and not line.startswith(("#", "bind", "protected-mode", "port", "dir"))
    ]
    options = [word for line in kept for word in shlex.split(f"--{line}")]

    with RedisServer(tmp_path, extra_args=options) as server, server.client() as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("maxmemory*")["maxmemory-policy"] == "noeviction"
        assert int(client.config_get("maxmemory")["maxmemory"]) == 1 << 30


def test_image_is_given_every_file_that_the_package_takes_in() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = (ROOT / "Dockerfile").read_text().splitlines()
    let_in = (ROOT / ".dockerignore").read_text().splitlines()

    links = [
        path for package in wheel["packages"] for path in (ROOT / package).rglob("*") if path.is_symlink()
    ]
    assert links, "the file of topics is one"
    for path in [*wheel["packages"], *(str(link.resolve().relative_to(ROOT)) for link in links)]:
        assert f"COPY {path} {path}" in copied
        assert f"!{path}" in let_in


def test_kafka_topics_have_their_partitions() -> None:
    topics = yaml.safe_load((ROOT / "config" / "kafka_topics.yaml").read_text())["topics"]

    assert {name: topic["partitions"] for name, topic in topics.items()} == {
        "anomaly_events": 3, "job_events": 2, "system_events": 1, "audit_events": 5,
        "dead_letter_events": 1,
    }  # fmt: skip

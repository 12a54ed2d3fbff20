"""The topics of events, as a file describes them: partitions, replicas, and how long what is in them is kept."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import yaml

from pynomaly_tasks.core.event import ANOMALY_EVENTS, AUDIT_EVENTS, JOB_EVENTS, SYSTEM_EVENTS
from pynomaly_tasks.errors import FieldProblem, InvalidSettings

DEAD_LETTER_EVENTS = "dead_letter_events"
#: What the platform writes to; a file of topics has them all.
REQUIRED_TOPICS = (ANOMALY_EVENTS, AUDIT_EVENTS, DEAD_LETTER_EVENTS, JOB_EVENTS, SYSTEM_EVENTS)

MAX_PARTITIONS = 1_000
MAX_REPLICAS = 9

_SETTING = "kafka.topics_file"
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_FILE_NAME = "kafka_topics.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic as it is to be."""

    name: str
    n_partitions: int
    replication_factor: int
    config: Mapping[str, str]  #: Kafka's names, such as ``retention.ms``

    @property
    def retention_s(self) -> float:
        """How long messages are kept; inf for ever, and Kafka's own week where the file says nothing.

        Raises InvalidSettings.
        """
        text = self.config.get("retention.ms", "604800000")
        try:
            ms = int(text)
        except ValueError:
            message = f"retention.ms of {self.name} is {text!r}; it must be a number of milliseconds, or -1"
            raise InvalidSettings.of(_SETTING, message) from None
        return inf if ms < 0 else ms / 1_000


def default_topics_file() -> Path:
    """This version's own file, ``config/kafka_topics.yaml`` of a checkout."""
    return Path(__file__).with_name(_FILE_NAME)


def read_topics(file: Path | None = None) -> dict[str, Topic]:
    """The topics of a file, this version's own if none is given, by name.

    Raises InvalidSettings with one problem for each field that is wrong.
    """
    file = file or default_topics_file()
    try:
        found = yaml.load(file.read_text("utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise InvalidSettings.of(_SETTING, f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSettings.of(_SETTING, f"{file} is no UTF-8 text: {error.reason}") from error
    except yaml.YAMLError as error:
        raise InvalidSettings.of(_SETTING, f"{file} is no YAML: {' '.join(str(error).split())}") from error
    check = _Check(file)
    topics = check.topics(found)
    if check.problems:
        raise InvalidSettings(*check.problems)
    return topics


class _StrictLoader(yaml.SafeLoader):
    """Safe, and a name that is there twice is an error: the first of the two would vanish."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    names = [key.value for key, _ in node.value]
    for name in names:
        if names.count(name) > 1:
            raise yaml.constructor.ConstructorError(
                "in a mapping", node.start_mark, f"{name!r} is there twice", node.start_mark
            )
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


class _Check:
    """Reads what a file says, and notes everything that is wrong with it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.problems: list[FieldProblem] = []

    def topics(self, found: object) -> dict[str, Topic]:
        whole = self._mapping("", found, {"defaults", "topics"})
        defaults = self._mapping("defaults", whole.get("defaults"), {"replication_factor", "config"})
        n_replicas = self._number(
            "defaults.replication_factor", defaults.get("replication_factor", 1), MAX_REPLICAS
        )
        config = self._config("defaults.config", defaults.get("config"))
        described = self._mapping("topics", whole.get("topics"), None)
        for name in REQUIRED_TOPICS:
            if name not in described:
                self._problem(f"topics.{name}", "missing: the platform writes to it")
        return {
            name: self._topic(name, described[name], n_replicas, config)
            for name in described
            if self._is_name(name)
        }

    def _topic(self, name: str, found: object, n_replicas: int, config: Mapping[str, str]) -> Topic:
        field = f"topics.{name}"
        topic = self._mapping(field, found, {"partitions", "replication_factor", "config"})
        if "partitions" not in topic:
            self._problem(f"{field}.partitions", "missing: a number of partitions")
        return Topic(
            name=name,
            n_partitions=self._number(f"{field}.partitions", topic.get("partitions", 1), MAX_PARTITIONS),
            replication_factor=self._number(
                f"{field}.replication_factor", topic.get("replication_factor", n_replicas), MAX_REPLICAS
            ),
            config={**config, **self._config(f"{field}.config", topic.get("config"))},
        )

    def _is_name(self, name: object) -> bool:
        if isinstance(name, str) and _NAME.fullmatch(name) and name not in {".", ".."}:
            return True
        self._problem(
            f"topics.{name}", "no name of a topic: up to 249 letters, digits, dots, dashes, underscores"
        )
        return False

    def _config(self, field: str, found: object) -> dict[str, str]:
        values = self._mapping(field, found, None)
        return {name: self._value(f"{field}.{name}", value) for name, value in values.items()}

    def _value(self, field: str, value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if not isinstance(value, str | int | float):
            self._problem(field, f"one value, not {value!r}")
        return str(value)

    def _number(self, field: str, value: object, largest: int) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest:
            return value
        self._problem(field, f"a number from 1 to {largest}, not {value!r}")
        return 1

    def _mapping(self, field: str, found: object, known: set[str] | None) -> dict[str, Any]:
        if found is None and field:
            return {}
        if not isinstance(found, dict):
            self._problem(field, f"names with their values, not {type(found).__name__}")
            return {}
        for name in found:
            if known is not None and name not in known:
                self._problem(f"{field}.{name}".lstrip("."), f"unknown; known are {', '.join(sorted(known))}")
        return found

    def _problem(self, field: str, message: str) -> None:
        self.problems.append(
            FieldProblem(field=f"{_SETTING} {self._file}: {field or 'the file'}", message=message)
        )

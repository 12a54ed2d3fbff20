"""The brokers, one file each; found by name, so that a setting alone changes which one is used."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any, cast

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.messaging.backend import Backend
from pynomaly_tasks.messaging.backends import abilities
from pynomaly_tasks.messaging.capabilities import Capabilities
from pynomaly_tasks.messaging.emulation import EmulatedBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Where a backend is; its module is imported when it is chosen, and connects to nothing."""

    module: str
    class_name: str
    extra: str = ""  #: of this package, that its client library comes with
    #: Of a `PlainBroker` that `EmulatedBackend` makes a backend of. None: the class is a backend and says itself.
    capabilities: Capabilities | None = None


_HERE = "pynomaly_tasks.messaging.backends"
_KNOWN = {
    "memory": _Known(module=f"{_HERE}.memory.backend", class_name="MemoryBackend"),
    "redis_streams": _Known(module=f"{_HERE}.redis_streams.backend", class_name="RedisStreamsBackend"),
    "kafka": _Known(module=f"{_HERE}.kafka.broker", class_name="KafkaBroker", capabilities=abilities.KAFKA),
    "event_hubs": _Known(
        module=f"{_HERE}.kafka.event_hubs", class_name="EventHubsBroker", capabilities=abilities.EVENT_HUBS
    ),
    "rabbitmq": _Known(
        module=f"{_HERE}.rabbitmq.broker",
        class_name="RabbitBroker",
        extra="rabbitmq",
        capabilities=abilities.RABBITMQ,
    ),
    "mqtt": _Known(
        module=f"{_HERE}.mqtt.broker", class_name="MqttBroker", extra="mqtt", capabilities=abilities.MQTT
    ),
    "sqs": _Known(
        module=f"{_HERE}.sqs.broker", class_name="SqsBroker", extra="sqs", capabilities=abilities.SQS
    ),
    "pubsub": _Known(
        module=f"{_HERE}.pubsub.broker",
        class_name="PubSubBroker",
        extra="pubsub",
        capabilities=abilities.PUBSUB,
    ),
}
BACKEND_NAMES = tuple(_KNOWN)


def capability_table() -> dict[str, Capabilities]:
    """What each backend of this version can do, by its name."""
    return {name: known.capabilities or _load(name).capabilities for name, known in _KNOWN.items()}


def build_backend(name: str, *arguments: Any, **options: Any) -> Backend:
    """The backend of that name, not open yet.

    Raises InvalidSettings for a name that is none, and where its client library is not installed.
    """
    if name not in _KNOWN:
        raise InvalidSettings.of(
            "messaging.backend", f"there is no {name!r:.60}; the backends are {', '.join(_KNOWN)} and custom"
        )
    built = _load(name)(*arguments, **options)
    return cast("Backend", built) if _KNOWN[name].capabilities is None else EmulatedBackend(built)


def build_custom_backend(module: str, class_name: str, *arguments: Any, **options: Any) -> Backend:
    """A backend of your own: a class with every method of `Backend`.

    Raises InvalidSettings when there is no such module or class, or it lacks a method.
    """
    try:
        found: Any = getattr(importlib.import_module(module), class_name)
    except ImportError as error:
        raise InvalidSettings.of(
            "messaging.custom_module", f"{module!r:.80} cannot be imported: {error}"
        ) from error
    except AttributeError:
        raise InvalidSettings.of(
            "messaging.custom_class", f"the module {module} has no {class_name!r:.60}"
        ) from None
    is_class = inspect.isclass(found)
    if not is_class:
        raise InvalidSettings.of("messaging.custom_class", f"{module}.{class_name} is no class")
    missing = [
        name
        for name, method in vars(Backend).items()
        if inspect.iscoroutinefunction(method) and not inspect.iscoroutinefunction(getattr(found, name, None))
    ]
    missing += [name for name in ("name", "capabilities") if not hasattr(found, name)]
    if missing:
        raise InvalidSettings.of(
            "messaging.custom_class",
            f"{module}.{class_name} is no messaging backend: it lacks {', '.join(sorted(missing))}; "
            "pynomaly_tasks.messaging.Backend says what each does",
        )
    if not isinstance(found.capabilities, Capabilities):
        raise InvalidSettings.of(
            "messaging.custom_class", f"{module}.{class_name}.capabilities must be a Capabilities"
        )
    return cast("Backend", found(*arguments, **options))


def _load(name: str) -> Any:
    known = _KNOWN[name]
    try:
        return getattr(importlib.import_module(known.module), known.class_name)
    except ModuleNotFoundError as error:
        if not known.extra or str(error.name).startswith("pynomaly_tasks"):
            raise
        raise InvalidSettings.of(
            "messaging.backend", f"{name} needs: pip install 'pynomaly-tasks[{known.extra}]'"
        ) from error

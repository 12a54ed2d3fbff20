"""The settings of the message queues are read and checked; a broker is changed by setting alone."""

from __future__ import annotations

import asyncio
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet

from pynomaly_tasks.bootstrap import build_messaging
from pynomaly_tasks.cli import pynomaly
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidMessage, InvalidSettings
from pynomaly_tasks.messaging import BACKEND_NAMES, QueueOptions, capability_table
from pynomaly_tasks.messaging.backends.memory.backend import MemoryBackend
from pynomaly_tasks.settings import Settings
from support.processes import ROOT, Programs
from support.waiting import wait_until

Load = Callable[..., Settings]


def _problem(load_messaging: Load, **variables: str) -> str:
    with pytest.raises(InvalidSettings) as caught:
        build_messaging(load_messaging(**variables))
    return str(caught.value)


def _url_of(backend: str, request: pytest.FixtureRequest) -> str:
    if backend == "kafka":
        return f"kafka://{request.getfixturevalue('kafka').bootstrap}"
    if backend == "event_hubs":
        return str(request.getfixturevalue("event_hubs").connection_string)
    if backend == "rabbitmq":
        return str(request.getfixturevalue("rabbitmq").url)
    if backend == "mqtt":
        return str(request.getfixturevalue("mosquitto").url)
    if backend == "sqs":
        return str(request.getfixturevalue("sqs_server").url)
    if backend == "pubsub":
        return str(request.getfixturevalue("pubsub_emulator").url)
    return f"{request.getfixturevalue('redis_server').url}/4"


@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=[pytest.mark.pubsub] if name == "pubsub" else []) for name in BACKEND_NAMES],
)
def test_broker_is_changed_by_a_setting_alone(
    load_messaging: Load, request: pytest.FixtureRequest, backend: str
) -> None:
    url = _url_of(backend, request)

    async def use() -> str:
        async with build_messaging(load_messaging(BACKEND=backend, URL=url)) as manager:
            await manager.create_queue("q", QueueOptions(deduplication_s=60.0))
            await manager.send("q", {"n": 1})
            (delivery,) = await manager.receive("q")
            await delivery.ack()
            return manager.backend.name

    assert asyncio.run(use()) == backend


def test_limits_and_keys_of_the_settings_are_in_force(load_messaging: Load) -> None:
    settings = load_messaging(
        BACKEND="memory", MAX_PAYLOAD_KB="1", MAX_DEPTH="2", MAX_FAN_OUT="1",
        ENCRYPTION_KEYS=f'["{Fernet.generate_key().decode()}"]',
    )  # fmt: skip

    async def use() -> bytes:
        async with build_messaging(settings) as manager:
            await manager.create_queue("q")
            for payload, why in (("x" * 2_000, "at most 1,024"), ([[[1]]], "deeper than 2")):
                with pytest.raises(InvalidMessage, match=why):
                    await manager.send("q", payload)
            await manager.subscribe("r", "t")
            await manager.subscribe("s", "t")
            with pytest.raises(InvalidMessage, match="max_fan_out is 1"):
                await manager.publish("t", 1)
            await manager.send("q", "secret")
            (stored,) = await manager.backend.browse("q", after="", limit=1)
            return stored.body

    assert b"secret" not in asyncio.run(use())


def test_wrong_settings_are_named(load_messaging: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "messaging.backend" in _problem(load_messaging, BACKEND="carrier_pigeon")
    assert "messaging.custom_module and messaging.custom_class must be set" in _problem(
        load_messaging, BACKEND="custom"
    )
    assert "must be redis:// or rediss://" in _problem(
        load_messaging, BACKEND="redis_streams", URL="amqp://u:hush@h/"
    )
    assert "must be kafka:// or kafkas://" in _problem(
        load_messaging, BACKEND="kafka", URL="redis://u:hush@h/"
    )
    assert "must be amqp:// or amqps://" in _problem(
        load_messaging, BACKEND="rabbitmq", URL="redis://u:hush@h/"
    )
    assert "must be mqtt:// or mqtts://" in _problem(load_messaging, BACKEND="mqtt", URL="redis://u:hush@h/")
    monkeypatch.delenv("PYNOMALY_MESSAGING__URL")
    assert "messaging.backend is kafka, so messaging.url must be set" in _problem(
        load_messaging, BACKEND="kafka"
    )
    assert "messaging.concurrency" in _problem(
        load_messaging, BACKEND="redis_streams", URL="redis://h/1", CONCURRENCY="0"
    )
    monkeypatch.delenv("PYNOMALY_MESSAGING__CONCURRENCY")
    assert "encryption_keys" in _problem(load_messaging, ENCRYPTION_KEYS='["hush"]')


def test_unset_url_is_a_database_of_the_platforms_redis(
    load_messaging: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYNOMALY_REDIS__URL", "rediss://h:1?ssl_ca_certs=/ca")

    assert load_messaging().messaging_url() == "rediss://h:1/4?ssl_ca_certs=/ca"


class Mine(MemoryBackend):
    """A backend of a user."""

    name = "mine"

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url


class Half:
    """No backend."""

    name = "half"
    capabilities = capability_table()["memory"]

    async def open(self) -> None: ...


def test_backend_of_ones_own_is_named_by_module_and_class(
    load_messaging: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("my_backends")
    module.Mine, module.Half, module.NAME = Mine, Half, "text"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_backends", module)
    named = {"BACKEND": "custom", "URL": "mine://here", "CUSTOM_MODULE": "my_backends"}

    backend = build_messaging(load_messaging(**named, CUSTOM_CLASS="Mine")).backend

    assert (backend.name, getattr(backend, "url", None)) == ("mine", "mine://here")
    assert "custom_class: the module my_backends has no 'Nothing'" in _problem(
        load_messaging, **named, CUSTOM_CLASS="Nothing"
    )
    assert "my_backends.NAME is no class" in _problem(load_messaging, **named, CUSTOM_CLASS="NAME")
    lacking = _problem(load_messaging, **named, CUSTOM_CLASS="Half")
    assert "it lacks browse, close, declare" in lacking
    named["CUSTOM_MODULE"] = "no.such.module"
    assert "custom_module: 'no.such.module' cannot be imported" in _problem(
        load_messaging, **named, CUSTOM_CLASS="Mine"
    )


def test_capabilities_are_printed_for_each_backend() -> None:
    done = CliRunner().invoke(pynomaly, ["messaging", "capabilities"])
    head, *rows = [line.split("\t") for line in done.stdout.splitlines()]

    assert head == ["capability", *BACKEND_NAMES]
    assert ["persistence", "absent", "native"] in [row[:3] for row in rows]
    assert ["replay", "absent", "absent"] in [row[:3] for row in rows]


HANDLERS = """
from pynomaly_tasks.messaging import Message, Worker

async def work(message: Message) -> None:
    print(f"handled {message.payload}", flush=True)

def register(worker: Worker) -> None:
    worker.add_handler(work)
"""


def test_worker_command_handles_messages_until_sigterm(
    load_messaging: Load, redis_server: RedisServer, programs: Programs, tmp_path: Path
) -> None:
    url = f"{redis_server.url}/5"
    (tmp_path / "my_handlers.py").write_text(HANDLERS)
    env = {"PYNOMALY_MESSAGING__URL": url, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    arguments = ("-m", "pynomaly_tasks.cli", "messaging")

    async def fill() -> None:
        async with build_messaging(load_messaging(URL=url)) as manager:
            await manager.create_queue("a")
            await manager.create_queue("b")
            await manager.send_many("a", [1, 2])
            await manager.send("b", 3)

    asyncio.run(fill())
    worker = programs.python(
        *arguments, "worker", "--queues", "a,b", "--batch-size", "20", "--handlers", "my_handlers:register",
        env=env, ready="^handled 3",
    )  # fmt: skip
    worker.wait_for_output("^handled 2")
    worker.signal_group(signal.SIGTERM)
    wait_until(lambda: not worker.is_running(), 10.0, "the worker to end")
    once = programs.python(
        *arguments, "worker", "--queues", "a", "--once", "--handlers", "my_handlers:register", env=env
    )
    wait_until(lambda: not once.is_running(), 20.0, "the second worker to end")
    listing = programs.python(*arguments, "queues", env=env)
    wait_until(lambda: not listing.is_running(), 20.0, "the listing to end")

    assert (worker.returncode, once.returncode) == (0, 0)
    assert "done 3, failed 0, rejected 0, lost 0" in worker.output()
    assert "0 tries" in once.output()
    assert "a\tfifo\t0\t0\t0\t0\t2\t0\t0" in listing.output()


@pytest.mark.parametrize("handlers", ["no.such.module:f", "os:nothing", "os", "os:sep"])
def test_handlers_that_cannot_be_are_refused(handlers: str) -> None:
    done = CliRunner().invoke(pynomaly, ["messaging", "worker", "--queues", "q", "--handlers", handlers])

    assert done.exit_code == 1
    assert "pynomaly: --handlers: " in done.stderr


def test_dead_letters_are_listed_shown_redriven_and_discarded(
    load_messaging: Load, redis_server: RedisServer
) -> None:
    settings = load_messaging(URL=f"{redis_server.url}/6")

    def command(*arguments: str) -> str:
        done = CliRunner().invoke(pynomaly, ["messaging", "dead-letters", *arguments])
        return f"{done.exit_code} {done.stdout}{done.stderr}"

    async def fill() -> None:
        async with build_messaging(settings) as manager:
            await manager.create_queue("q")
            for n in range(3):
                await manager.send("q", {"n": n}, type="mail")
                (delivery,) = await manager.receive("q")
                await delivery.reject("no such customer")
            await manager.publish("lost.topic", 1)

    async def received() -> list[object]:
        async with build_messaging(settings) as manager:
            return [each.message.payload for each in await manager.receive("q", max_messages=10)]

    asyncio.run(fill())
    head, *rows = [line.split("\t") for line in command("list").splitlines()]
    first = next(row for row in rows if row[0] == "q")[1]

    assert head[-7:] == ["0 queue", "id", "at", "reason", "attempts", "topic", "error"]
    assert sorted((row[0], row[3], row[6]) for row in rows) == [
        ("", "no_subscriber", "nobody subscribed to lost.topic"), *[("q", "handler_error", "no such customer")] * 3
    ]  # fmt: skip
    assert '"payload": {\n    "n": 0\n  }' in command("show", "q", first)
    assert command("redrive", "q", first) == "0 1 redriven\n"
    assert asyncio.run(received()) == [{"n": 0}]
    assert "no dead letter" in command("redrive", "q", first)
    assert "still nobody subscribed" in command("redrive", "", "--all")
    assert command("discard", "q", "--all") == "0 2 discarded\n"
    assert command("discard", "q").startswith("2 ")

"""A broker, its workers on kombu's transport or ours, and what their tasks did."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu import Connection

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Program, Programs
from support.waiting import wait_until

OURS = "pynomaly_tasks.transport:Transport"
SENTINEL = "pynomaly_tasks.transport:SentinelTransport"
PLAIN = ""
OUR_CONSUMER = {"TRANSPORT_CONSUMER": "pynomaly_tasks.transport.consumer:Consumer"}
SEP = "\x06\x16"


class Fleet:
    """Workers of `support.transport_app`. The broker is database 1, what the tasks write database 2.

    ``effects`` holds what the tasks write, where the broker's server will break; ``broker_url`` is how
    workers and publishers reach the server, with ``options`` of the transport.
    """

    def __init__(
        self,
        server: RedisServer,
        programs: Programs,
        *,
        lease_s: float = 2.0,
        visibility_s: float = 3_600.0,
        prefix: str = "",
        effects: RedisServer | None = None,
        broker_url: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.server = server
        self.programs = programs
        self.prefix = prefix
        self.broker_url = broker_url or f"{server.url}/1"
        self.options = {"global_keyprefix": prefix, **(options or {})}
        self.broker = redis.Redis.from_url(f"{server.url}/1")
        effects_url = f"{(effects or server).url}/2"
        self.effects = redis.Redis.from_url(effects_url)
        self.env = {
            "TRANSPORT_EFFECTS": effects_url,
            "TRANSPORT_LEASE_S": str(lease_s),
            "TRANSPORT_VISIBILITY_S": str(visibility_s),
            "TRANSPORT_OPTIONS": json.dumps(self.options),
            "PYTHONPATH": os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")]),
        }

    def close(self) -> None:
        self.broker.close()
        self.effects.close()

    def worker(
        self,
        transport: str = OURS,
        *arguments: str,
        pool: str = "prefork",
        slots: int = 2,
        broker_url: str | None = None,
        lease_s: float | None = None,
        env: dict[str, str] | None = None,
        is_awaited: bool = True,
        is_social: bool = False,
    ) -> Program:
        """Start one, and wait until it is ready unless told not to.

        Only a social one talks to other workers, for which it waits a second when it starts.
        """
        social = () if is_social else ("--without-gossip", "--without-mingle")
        return self.programs.start(
            sys.executable, "-m", "celery", "-A", "support.transport_app", "worker",
            "-n", f"worker-{len(self.programs.started)}@%h", "-P", pool, "-c", str(slots), "-l", "INFO",
            *social, *arguments,
            name="worker",
            env={**self.env, "TRANSPORT": transport, "TRANSPORT_BROKER": broker_url or self.broker_url,
                 **({} if lease_s is None else {"TRANSPORT_LEASE_S": str(lease_s)}), **(env or {})},
            ready=r"\bready\." if is_awaited else None,
        )  # fmt: skip

    def connection(self, transport: str = OURS, **options: Any) -> Connection:
        """A kombu connection to the broker."""
        return Connection(
            self.broker_url,
            transport=transport or None,
            transport_options={**self.options, **options},
        )

    def submit(self, *numbers: int, transport: str = OURS, queue: str = "celery", **options: Any) -> None:
        """Publish `work(number, ...)` for each."""
        with self.publisher(transport) as publish:
            for number in numbers:
                publish(number, queue=queue, **options)

    @contextmanager
    def publisher(self, transport: str = OURS) -> Iterator[Callable[..., None]]:
        """What publishes `work(number, ...)` over one connection; takes options of `send_task` too."""
        with (
            Celery(set_as_current=False) as app,
            self.connection(transport) as connection,
            connection.Producer() as producer,
        ):

            def publish(number: int, queue: str = "celery", **options: Any) -> None:
                kwargs = {name: options.pop(name) for name in ("lasts_s", "gate") if name in options}
                app.send_task("work", (number,), kwargs, producer=producer, queue=queue, **options)

            yield publish

    def ended(self) -> Counter[int]:
        """How often each number ended."""
        return self._counts("ends")

    def started(self) -> Counter[int]:
        """How often each number started."""
        return self._counts("starts")

    def _counts(self, name: str) -> Counter[int]:
        found: dict[bytes, bytes] = self.effects.hgetall(name)  # type: ignore[assignment]  # not async
        return Counter({int(number): int(count) for number, count in found.items()})

    def wait_for_ends(self, count: int, timeout_s: float = 30.0) -> None:
        """Until so many different numbers have ended."""
        wait_until(lambda: self.effects.hlen("ends") >= count, timeout_s, f"{count} tasks to end")

    def wait_for_start(self, number: int, times: int = 1, timeout_s: float = 20.0) -> None:
        """Until this number has started so often."""
        wait_until(lambda: self.started()[number] >= times, timeout_s, f"task {number} to start")

    def n_unacked(self) -> int:
        """Messages that workers hold."""
        return int(self.broker.hlen(f"{self.prefix}unacked"))  # type: ignore[arg-type]  # not async

    def n_waiting(self, queue: str = "celery") -> int:
        """Messages in the queue's first list."""
        return int(self.broker.llen(self.prefix + queue))  # type: ignore[arg-type]  # not async

    def is_empty(self, queue: str = "celery") -> bool:
        """Nothing waits in the queue's first list and nothing is held, at one instant."""
        with self.broker.pipeline() as step:
            step.llen(self.prefix + queue)
            step.hlen(f"{self.prefix}unacked")
            return not any(step.execute())

    def dead(self, queue: str = "celery") -> list[bytes]:
        """Dead letters."""
        return self.broker.lrange(f"{self.prefix}{queue}{SEP}dead", 0, -1)  # type: ignore[return-value]


def close_results(app: Celery) -> None:
    """Close the connections of an app's result backend, which `Celery.close` leaves to whoever collects it."""
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()

"""The other half of a publish: what Celery and kombu do before a message reaches the transport.

Use it by name: ``Celery(..., amqp="pynomaly_tasks.transport.amqp:AMQP")``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from celery.app import amqp as celery_amqp
from celery.utils.nodenames import anon_nodename
from kombu import messaging, pools
from kombu.connection import is_connection
from kombu.entity import maybe_delivery_mode
from kombu.exceptions import EncodeError
from kombu.serialization import registry
from kombu.utils.functional import ChannelPromise
from kombu.utils.json import dumps as kombu_dumps
from kombu.utils.json import loads as kombu_loads

from pynomaly_tasks.transport import publishing
from pynomaly_tasks.transport.channel import Reserving
from pynomaly_tasks.transport.encoding import decode, encode, short_repr

JSON = "application/json"
#: Looked into for a task's `argsrepr`, where `task_repr_maxlevels` sets no limit.
_MAX_LEVELS = 20


class Producer(messaging.Producer):  # type: ignore[misc]  # kombu has no types
    """kombu's producer, with a short way for JSON that goes to one of our queues.

    The short way tries once. What it cannot do, and what fails on a connection that may come back,
    goes kombu's way, which declares and retries as the policy says; the transport sees that it is the
    same publish.
    """

    def revive(self, channel: Any) -> None:
        """Use this connection or channel from now on; its pool calls it for each task that is sent."""
        if self.exchange.name or not is_connection(channel):
            super().revive(channel)
            return
        # kombu copies the exchange and binds the copy. The one without a name needs no channel: it is
        # never declared.
        self.__connection__ = channel
        self._channel = ChannelPromise(lambda: channel.default_channel)

    def publish(self, body: Any, routing_key: str | None = None, *args: Any, **options: Any) -> Any:
        """Publish; as kombu's."""
        if args or routing_key is None or not self.is_short(options):
            return super().publish(body, routing_key, *args, **options)
        properties = self.properties(options)
        try:
            connection = self.__connection__
            channel = connection._default_channel if connection is not None and connection.connected else None
            channel = channel or self.channel  # which connects
            if isinstance(channel, Reserving):
                return self._publish_short(channel, body, routing_key, properties, options)
        except Exception as error:
            recoverable = self.connection.recoverable_connection_errors
            if not (options.get("retry") and isinstance(error, recoverable)):
                raise
        if publishing.FAILED in properties:
            # It has left its number there, by which the transport knows the next try as the same.
            options[publishing.FAILED] = properties[publishing.FAILED]
        return super().publish(body, routing_key, **options)

    def _publish(
        self, body: Any, priority: Any, content_type: Any, content_encoding: Any, headers: Any, properties: Any,
        routing_key: Any, mandatory: Any, immediate: Any, exchange: Any, declare: Any,
        timeout: Any = None, confirm_timeout: Any = None, retry: bool = False, retry_policy: Any = None,
    ) -> Any:  # fmt: skip
        # kombu takes its channel, declares, and publishes on it, although a declaration that had to be tried
        # again has closed it.
        for entity in declare or ():
            self.maybe_declare(entity, retry=retry, **(retry_policy or {}))
        if self.__connection__ is not None and self.channel.connection is None:
            self.revive(self.__connection__)
        return super()._publish(
            body, priority, content_type, content_encoding, headers, properties, routing_key, mandatory,
            immediate, exchange, (), timeout, confirm_timeout, retry, retry_policy,
        )  # fmt: skip

    def is_short(self, options: Mapping[str, Any]) -> bool:
        """Whether the short way knows how to publish with these options."""
        return (
            options.get("exchange") == ""
            and (options.get("serializer") or self.serializer) == "json"
            and options.get("content_type") is None
            and not (options.get("compression") or self.compression or self.exchange.name)
            and isinstance(options.get("reply_to", ""), str)
            # A serializer that the application put in the place of kombu's is used.
            and registry._encoders["json"].encoder is kombu_dumps
        )

    def properties(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What of a publish's options goes into the message, beside its headers and its priority."""
        properties = {name: value for name, value in options.items() if name not in _ARGUMENTS}
        if (expiration := options.get("expiration")) is not None:
            properties["expiration"] = str(int(expiration * 1000))
        properties["delivery_mode"] = maybe_delivery_mode(
            options.get("delivery_mode") or self.exchange.delivery_mode
        )
        return properties

    def _publish_short(
        self, channel: Any, body: Any, queue: str, properties: dict[str, Any], options: dict[str, Any]
    ) -> None:
        try:
            encoded = encode(body)
        except Exception as error:
            raise EncodeError(str(error)) from error
        declared = self.connection.declared_entities
        for entity in options.get("declare") or ():
            if not (hash(entity) in declared and entity.can_cache_declaration):
                self.maybe_declare(entity)
        headers, priority = options.get("headers"), options.get("priority")
        batch = getattr(self._batch_local, "current", None)
        if batch is None:
            channel.put_json(queue, encoded, headers, properties, priority)
        else:
            message = channel.prepare_message(encoded, priority, JSON, "utf-8", headers, properties)
            batch.publish(channel, message, exchange="", routing_key=queue)


#: Arguments of `publish` that are no properties of the message.
_ARGUMENTS = frozenset(
    {"routing_key", "exchange", "serializer", "content_type", "content_encoding", "compression", "mandatory", "immediate",
     "timeout", "confirm_timeout", "retry", "retry_policy", "declare", "headers", "priority",
     "delivery_mode", "expiration"}
)  # fmt: skip


class _Producers(pools.PoolGroup):  # type: ignore[misc]  # kombu has no types
    """As kombu's, of our producers; kombu clears it after a fork."""

    def create(self, connection: Any, limit: int | None) -> Any:
        return pools.ProducerPool(pools.connections[connection], limit=limit, Producer=Producer)


_producers = pools.register_group(_Producers(limit=pools.use_global_limit))


#: Options that change the message in ways that are left to Celery.
_UNUSUAL = frozenset({"now", "timezone", "origin", "stamped_headers"})


class Origin:
    """Which process a message is from, as Celery names one that is no worker."""

    _pid = -1
    _name = ""

    def name(self) -> str:
        """This process's."""
        if os.getpid() != self._pid:
            self._name, self._pid = anon_nodename(), os.getpid()
        return self._name


origin = Origin()


class AMQP(celery_amqp.AMQP):  # type: ignore[misc]  # celery has no types
    """Celery's, with a producer that knows our transport and short descriptions of arguments."""

    Producer = Producer
    _producer_pool: Any

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        # Celery's worker decodes arguments once more where it runs the task. A decoder that the
        # application put in the place of kombu's is left there.
        if registry._decoders.get(JSON) is kombu_loads:
            registry.register("json", None, decode, JSON)

    @property
    def producer_pool(self) -> Any:
        """The producers that `.delay()` takes turns with."""
        if self._producer_pool is None:
            self._producer_pool = _producers[self.app.connection_for_write()]
            self._producer_pool.limit = self.app.pool.limit
        return self._producer_pool

    publisher_pool = producer_pool

    @cached_property
    def _max_levels(self) -> int:
        return int(self.app.conf.task_repr_maxlevels or _MAX_LEVELS)

    def as_task_v2(
        self, task_id: str, name: str, args: Any = None, kwargs: Any = None,
        countdown: Any = None, eta: Any = None, group_id: Any = None, group_index: Any = None,
        expires: Any = None, retries: Any = 0, chord: Any = None, callbacks: Any = None, errbacks: Any = None,
        reply_to: Any = None, time_limit: Any = None, soft_time_limit: Any = None,
        create_sent_event: Any = False, root_id: Any = None, parent_id: Any = None, shadow: Any = None,
        chain: Any = None, *,
        argsrepr: str | None = None, kwargsrepr: str | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """The task's message. Its arguments are described without walking through all of them."""
        if isinstance(args, list | tuple | None) and isinstance(kwargs, dict | None):
            described = self.describe(args or (), kwargs or {})
            argsrepr = described[0] if argsrepr is None else argsrepr
            kwargsrepr = described[1] if kwargsrepr is None else kwargsrepr
            if not (
                countdown
                or eta is not None
                or expires is not None
                or create_sent_event
                or options.keys() & _UNUSUAL
            ):
                # Celery's function for the usual call; a test holds the two together.
                headers = {
                    "lang": "py", "task": name, "id": task_id, "shadow": shadow, "eta": None, "expires": None,
                    "group": group_id, "group_index": group_index, "retries": retries,
                    "timelimit": [time_limit, soft_time_limit], "root_id": root_id or task_id,
                    "parent_id": parent_id, "argsrepr": argsrepr, "kwargsrepr": kwargsrepr,
                    "origin": origin.name(), "ignore_result": options.get("ignore_result", False),
                    "replaced_task_nesting": options.get("replaced_task_nesting", 0), "stamped_headers": None,
                    "stamps": {},
                }  # fmt: skip
                embed = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain, "chord": chord}
                properties = {"correlation_id": task_id, "reply_to": reply_to or ""}
                return celery_amqp.task_message(headers, properties, (args or (), kwargs or {}, embed), None)
        return super().as_task_v2(
            task_id, name, args, kwargs, countdown, eta, group_id, group_index, expires, retries, chord,
            callbacks, errbacks, reply_to, time_limit, soft_time_limit, create_sent_event, root_id, parent_id,
            shadow, chain, argsrepr=argsrepr, kwargsrepr=kwargsrepr, **options,
        )  # fmt: skip

    def describe(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """What the headers and the events of a task say of its arguments; for people."""
        return (
            short_repr(args, self.argsrepr_maxsize, self._max_levels),
            short_repr(kwargs, self.kwargsrepr_maxsize, self._max_levels) if kwargs else "{}",
        )

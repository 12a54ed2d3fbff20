"""The half of a channel that publishes."""

from __future__ import annotations

from typing import Any

import redis

from pynomaly_tasks.transport import publishing

_MAX_PLACES = 1_000  #: queues whose keys are remembered


class Publishing:
    """The overrides that put messages into queues."""

    _own_client: redis.Redis | None = None
    _lines: publishing.Lines | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._places: dict[tuple[str, int], publishing.Place] = {}
        super().__init__(*args, **kwargs)

    @property
    def _plain_client(self: Any) -> redis.Redis:
        # Our steps name their keys in full, also where `global_keyprefix` is set.
        client: redis.Redis | None = self._own_client
        if client is None or client.connection_pool is not self.pool:
            client = self._own_client = redis.Redis(connection_pool=self.pool)
        return client

    def _key(self: Any, name: str) -> str:
        prefix: str = self.global_keyprefix
        return prefix + name

    def _wake_key(self: Any, queue: str) -> str:
        key: str = self._key(f"{queue}{self.sep}wake")
        return key

    @property
    def lines(self: Any) -> publishing.Lines:
        """The connections that publish."""
        lines: publishing.Lines | None = self._lines
        client = self._plain_client
        if lines is None or lines.client is not client:
            lines = self._lines = publishing.Lines(client)
        return lines

    def _put(self: Any, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        priority = self._get_message_priority(message, reverse=False)
        place = self._places.get((queue, priority))
        if place is None or place.expires_ms != self._expires.get(queue, 0):
            if len(self._places) >= _MAX_PLACES:
                self._places.clear()  # somebody publishes to queues of many names, such as those of replies
            place = self._places[queue, priority] = self._place(queue, priority)
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            batch.put(place, message)
        else:
            publishing.put(self.lines, place, message)

    def put_json(
        self: Any,
        queue: str,
        body: bytes | str,
        headers: dict[str, Any] | None,
        properties: dict[str, Any],
        priority: int | None,
    ) -> None:
        """Publish an encoded body: what kombu's `prepare_message` and `basic_publish` do, in one step.

        Several threads may do so at once, each with a connection of its own.
        """
        properties["priority"] = priority or self.default_priority
        properties.setdefault("delivery_info", {}).update(exchange="", routing_key=queue)
        encoded, properties["body_encoding"] = self.encode_body(body, self.body_encoding)
        properties["delivery_tag"] = publishing.tags.next()
        message = {
            "body": encoded,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers or {},
            "properties": properties,
        }
        self._put(queue, message)

    def _place(self: Any, queue: str, priority: int) -> publishing.Place:
        expires_ms = self._expires.get(queue, 0)
        steps = self.priority_steps if expires_ms else ()
        expiring = [self._q_for_pri(queue, step) for step in steps]
        if 0 < expires_ms < publishing.WAKE_EXPIRES_S * 1_000:
            expiring.append(f"{queue}{self.sep}wake")
        return publishing.Place(
            list_key=self._key(self._q_for_pri(queue, priority)),
            wake_key=self._wake_key(queue),
            prefix=self.global_keyprefix,
            expires_ms=expires_ms,
            expiring_lists=tuple(map(self._key, expiring)),
        )

    def _next_delivery_tag(self) -> str:
        return publishing.tags.next()

    def create_publish_batch(self, max_size: int) -> publishing.PublishBatch:
        """A batch that is sent in one round trip."""
        return publishing.PublishBatch(self, max_size)

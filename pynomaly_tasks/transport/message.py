"""A delivered message that gives itself back when nobody settles it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu import message as kombu_message
from kombu.transport import virtual

if TYPE_CHECKING:
    from pynomaly_tasks.transport.ledger import Ledger

#: Where the guard leaves what it read of a JSON body, and its bytes, for the message that is made next.
READ_BODY = "\0body"
BODY_BYTES = "\0bytes"


class Message(virtual.Message):  # type: ignore[misc]  # kombu has no types
    """kombu's message; when its last reference goes and it was not settled, it goes back to its queue."""

    _ledger: Ledger | None = None
    _is_undecodable = False

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        self._read_body, body = payload.pop(READ_BODY, None), payload.pop(BODY_BYTES, None)
        if body is None or "compression" in payload["headers"]:
            super().__init__(payload, channel=channel, **options)
        else:
            # As kombu does, but for decoding the bytes from base64 once more.
            self._raw = payload
            properties = payload["properties"]
            kombu_message.Message.__init__(
                self, body, properties["delivery_tag"], payload["content-type"], payload.get("content-encoding"),
                properties["delivery_info"], properties, payload["headers"], channel=channel, **options,
            )  # fmt: skip
        self._ledger = channel.ledger

    def __del__(self) -> None:
        if self._ledger is not None:
            self._ledger.dropped(self.delivery_tag)

    def _decode(self) -> Any:
        # Celery asks for the body that the guard has read already.
        body, self._read_body = self._read_body, None
        if body is not None and (self.accept is None or self.content_type in self.accept):
            return body
        try:
            return super()._decode()
        except Exception:
            self._is_undecodable = True
            raise

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge it; one that could not be decoded, which Celery acknowledges too, is rejected."""
        if self._is_undecodable:
            self.reject()
        else:
            super().ack(multiple)

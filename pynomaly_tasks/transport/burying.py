"""What cannot be delivered, or was refused, kept with its bytes and the reason."""

from __future__ import annotations

import base64
import logging
import re
from time import time
from typing import Any

import orjson
from kombu.utils import symbol_by_name

log = logging.getLogger(__name__)

#: As reserve.lua and kombu write it: [message,"exchange","routing key"]; ours ends with the queue.
_RECORD = re.compile(rb'\[(.*),"",("[^"]*")\]', re.DOTALL)


def bury(channel: Any, tag: str, queue: str, raw: bytes, reason: str) -> None:
    """Move a message that this process holds to its queue's dead letters. Raises redis errors."""
    log.error("message in %s cannot be delivered: %s", queue, reason)
    hook = symbol_by_name(channel.on_malformed) if channel.on_malformed else None
    if hook is not None:
        try:
            if hook(raw, queue, reason):
                channel.ledger.acknowledge(tag)
                return
        except Exception:
            log.exception("on_malformed failed; the message goes to the queue's dead letters")
    letter = {"raw": base64.b64encode(raw).decode(), "reason": reason, "queue": queue, "at": time()}
    channel.ledger.bury(tag, channel._key(f"{queue}{channel.sep}dead"), orjson.dumps(letter))


def bury_rejected(channel: Any, tag: str, error: BaseException | None) -> None:
    """The same with a message that its consumer refused; ``error`` is what it was handling then."""
    record = channel.ledger.read(tag)
    parts = _RECORD.fullmatch(record or b"")
    if parts is None:  # it was settled before, or given to others: theirs is the last word
        channel.ledger.acknowledge(tag)
        return
    raw, queue = parts.groups()
    bury(channel, tag, orjson.loads(queue), raw, _why(error))


def _why(error: BaseException | None) -> str:
    # Celery finds the task of a message by its name in a dictionary, and rejects what it does not find.
    if isinstance(error, KeyError) and len(error.args) == 1 and isinstance(error.args[0], str):
        name = error.args[0]
        return "the message names no task" if name == "task" else f"no worker here has the task {name!r}"
    if error is not None:
        return f"rejected: {type(error).__name__}: {error}"[:500]
    return "rejected by its consumer or its task"

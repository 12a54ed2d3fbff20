"""Messages that never became a job, taken out of the dead letters again."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import orjson

from pynomaly_tasks.core.audit_events import SOMEBODY, Actor, DeadLetterReplayed, letter_name
from pynomaly_tasks.core.job import DeadReason
from pynomaly_tasks.errors import Conflict, InvalidRequest
from pynomaly_tasks.jobs.validation import named_arguments
from pynomaly_tasks.queueing.app import TASK_PREFIX

if TYPE_CHECKING:
    from pynomaly_tasks.bootstrap import Platform
    from pynomaly_tasks.core.job import DeadLetter
    from pynomaly_tasks.jobs.context import Kind

_NAMESPACE = UUID("0b7f4a0e-6a55-5f0c-8f0e-3d0c9f2b7a61")


def can_be_replayed(letter: DeadLetter) -> bool:
    """Whether its bytes are a message that may be sent again, the arguments of a task, or an event."""
    parts = _parts(letter)
    return _is_event(letter, parts) or _is_message(parts) or _is_arguments(parts)


def replay_message(
    platform: Platform, letter: DeadLetter, edits: Mapping[str, Any], actor: Actor = SOMEBODY
) -> str:
    """Send the message again, submit the arguments, or have the event published; what runs then, by its id.

    ``edits`` are of its request; None leaves a field out. A message that had expired gets another id and
    expires no more. Sent twice, by two people at once, a message with an id still makes one job. Raises
    Conflict, InvalidRequest, BrokerUnavailable, StoreUnavailable.
    """
    parts = _parts(letter)
    kind = platform.kinds.get((letter.kind or "").removeprefix(TASK_PREFIX))
    if _is_arguments(parts) and kind is not None:
        request = _edited(kind, parts["args"], parts["kwargs"], edits)
        key = f"dead letter {letter.id}"
        job_id = platform.submit(kind.name, request, queue=letter.queue, idempotency_key=key).id
    elif _is_message(parts):
        if edits:
            _edit_body(parts, kind, edits)
        if letter.reason is DeadReason.DEADLINE_PASSED:
            _unexpire(parts, letter.id)
        as_it_came = not edits and letter.reason is not DeadReason.DEADLINE_PASSED
        platform.queue.send_again(letter.queue, letter.payload if as_it_came else orjson.dumps(parts))
        job_id = str(parts["headers"].get("id") or f"a message in {letter.queue}")
    elif _is_event(letter, parts):
        job_id = f"event {parts['id']}"
    else:
        raise Conflict(f"dead letter {letter.id} holds no message, and no arguments of a kind known here")
    replayed = DeadLetterReplayed(
        actor=actor.name,
        door=actor.door,
        address=actor.address,
        letter=letter_name(letter.id),
        replayed_as=job_id,
        queue=letter.queue,
        edited=tuple(edits),
    )
    if _is_event(letter, parts):
        platform.store.put_back_event(letter, edits, replayed)
        platform.bell.ring()
    else:
        platform.store.mark_letter_replayed(letter, replayed)
    return job_id


def _unexpire(parts: dict[str, Any], letter_id: int) -> None:
    headers = parts["headers"]
    # The worker that saw it expire takes its id for revoked from then on.
    old = headers.get("id")
    new = str(uuid5(_NAMESPACE, f"{letter_id} {old}"))
    headers.update(
        expires=None, id=new, root_id=new if headers.get("root_id") == old else headers.get("root_id")
    )
    parts["properties"]["correlation_id"] = new


def _edited(kind: Kind, args: Any, kwargs: Any, edits: Mapping[str, Any]) -> dict[str, Any]:
    request = named_arguments(kind.request_model, args, kwargs)
    request.update(edits)
    return {name: value for name, value in request.items() if edits.get(name, 0) is not None}


def _edit_body(parts: dict[str, Any], kind: Kind | None, edits: Mapping[str, Any]) -> None:
    is_base64 = parts["properties"].get("body_encoding") == "base64"
    try:
        args, kwargs, embed = orjson.loads(base64.b64decode(parts["body"]) if is_base64 else parts["body"])
    except (ValueError, TypeError):
        kind = None
    if kind is None:
        raise InvalidRequest.of(
            "edit", "the message has no arguments of a kind known here; without --edit it is sent as it came"
        )
    body = orjson.dumps([[], _edited(kind, args, kwargs, edits), embed])
    parts["body"] = base64.b64encode(body).decode() if is_base64 else body.decode()


def _parts(letter: DeadLetter) -> Any:
    try:
        return orjson.loads(letter.payload)
    except orjson.JSONDecodeError:
        return None


def _is_message(parts: Any) -> bool:
    return (
        isinstance(parts, dict)
        and isinstance(parts.get("body"), str)
        and isinstance(parts.get("properties"), dict)
        and isinstance(parts.get("headers"), dict)
    )


def _is_arguments(parts: Any) -> bool:
    return isinstance(parts, dict) and parts.keys() == {"args", "kwargs"}


def _is_event(letter: DeadLetter, parts: Any) -> bool:
    return (
        letter.reason is DeadReason.EVENT_REFUSED
        and isinstance(parts, dict)
        and isinstance(parts.get("data"), dict)
    )

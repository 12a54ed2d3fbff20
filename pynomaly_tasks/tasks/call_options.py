"""What a caller says beside the arguments: Celery's options, ours, and what a chain or chord adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pynomaly_tasks.core.trace import is_traceparent
from pynomaly_tasks.errors import InvalidRequest
from pynomaly_tasks.queueing.envelope import ENVELOPE_KEYS

#: Options that say how a message is sent. The job's row decides that, each time it rings.
_SENDING = frozenset(
    {"producer", "publisher", "connection", "router", "retry", "retry_policy", "compression", "delivery_mode"}
    | {"exchange", "exchange_type", "retries", "task_type", "result_cls", "add_to_parent", "immutable"}
)


def job_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the fields of `JobOptions`.

    What neither Celery nor we know stays in, and is refused there by name. Raises InvalidRequest.
    """
    stamps = options.get("stamped_headers") or ()
    ours: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or name in ENVELOPE_KEYS or name in _SENDING or name in stamps:
            continue
        if name == "countdown":
            if options.get("eta") is None:  # Celery prefers the eta, too
                ours["delay_s"] = value
        elif name == "eta":
            ours["run_at"] = _aware(value)
        elif name == "expires":
            ours["deadline_at"] = _instant(value)
        elif name == "queue":
            ours["queue"] = getattr(value, "name", value)
        elif name not in ("time_limit", "soft_time_limit", "routing_key", "serializer"):
            ours[name] = value
    # Ours stops the attempt at its limit and kills it 5 s later; Celery's two limits say the same.
    limit = options.get("soft_time_limit") or options.get("time_limit")
    if limit is not None:
        ours.setdefault("time_limit_s", limit)
    if options.get("routing_key") is not None:
        ours.setdefault("queue", options["routing_key"])
    if options.get("serializer") not in (None, "json"):
        raise InvalidRequest.of(
            "serializer", f"{options['serializer']!r} cannot be used; jobs are JSON only, leave it out"
        )
    return ours


def envelope(options: Mapping[str, Any]) -> dict[str, Any]:
    """What each message of the job must carry for Celery. Raises InvalidRequest for what is not JSON."""
    kept = {name: options[name] for name in ENVELOPE_KEYS if options.get(name)}
    for name in ("link", "link_error"):
        if name in kept and not isinstance(kept[name], (list, tuple)):
            kept[name] = [kept[name]]
    stamps = options.get("stamped_headers") or ()
    if stamps:
        kept["stamps"] = {name: options[name] for name in stamps if name in options}
    return {name: _as_json(name, value) for name, value in kept.items()}


def envelope_of_delivery(delivery: Any) -> dict[str, Any]:
    """The same, of a message that somebody else sent."""
    found = {
        "group_id": delivery.group,
        "group_index": delivery.group_index,
        "chord": delivery.chord,
        "chain": delivery.chain,
        "link": delivery.callbacks,
        "link_error": delivery.errbacks,
        "reply_to": delivery.reply_to,
        "shadow": delivery.shadow,
        "ignore_result": delivery.ignore_result,
        "headers": trace_headers(delivery),
        "replaced_task_nesting": delivery.replaced_task_nesting,
        "stamped_headers": delivery.stamped_headers,
        "stamps": delivery.stamps,
    }
    return {name: value for name, value in found.items() if value}


def trace_headers(delivery: Any) -> dict[str, str]:
    """The trace that a message brought along; empty where it brought none."""
    given = (delivery.headers or {}).get("traceparent")
    return {"traceparent": given} if isinstance(given, str) and is_traceparent(given) else {}


def _as_json(name: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest.of(name, f"must be plain JSON: {error}") from None


def _instant(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return datetime.now(UTC) + timedelta(seconds=value)
        except (OverflowError, ValueError):
            raise InvalidRequest.of(
                "expires", f"{value} s from now is no instant; give seconds or a datetime"
            ) from None
    return _aware(value)


def _aware(value: Any) -> Any:
    """Celery takes an instant without a zone as UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value  # refused by JobOptions, under its own name
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value

"""Ids for what Celery calls when a job has ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any
from uuid import UUID, uuid5

_NAMESPACE = UUID("5f0c9a4e-2f3b-5d0e-9c57-6b1f4e1f7a10")


def give_ids(delivery: Any) -> None:
    """Give every callback of a delivery an id that a repeated delivery gives it again.

    Without one, Celery draws a new id each time: the callback of a job whose message came twice
    would run twice. With it, the second submission finds the job that exists.
    """
    for kind, signatures in (("link", delivery.callbacks), ("link_error", delivery.errbacks)):
        _name_all(signatures or (), uuid5(_NAMESPACE, f"{delivery.id} {kind}"))


def _name_all(signatures: Iterable[Any], parent: UUID) -> None:
    for number, signature in enumerate(signatures):
        if not isinstance(signature, MutableMapping):
            continue
        own = uuid5(parent, str(number))
        parts = signature.get("kwargs") or {}
        composed = signature.get("subtask_type") in ("chain", "group", "chord")
        if composed:
            inner = [*_signatures(parts.get("tasks")), *_signatures(parts.get("header"))]
            _name_all([*inner, *_signatures(parts.get("body"))], own)
        else:
            signature.setdefault("options", {}).setdefault("task_id", str(own))


def _signatures(value: Any) -> Sequence[Any]:
    return (value,) if isinstance(value, Mapping) else value or ()

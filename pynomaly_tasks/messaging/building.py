"""A manager from plain values, as settings have them."""

from __future__ import annotations

from collections.abc import Sequence

from pynomaly_tasks.messaging.backends import build_backend, build_custom_backend
from pynomaly_tasks.messaging.codec import Codec, CodecLimits
from pynomaly_tasks.messaging.manager import QueueManager
from pynomaly_tasks.messaging.options import STANDARD, QueueOptions


def build_manager(
    backend: str,
    url: str = "",
    *,
    custom: tuple[str, str] | None = None,
    namespace: str = "pynomaly:messaging",
    connect_timeout_s: float = 2.0,
    timeout_s: float = 10.0,
    limits: CodecLimits | None = None,
    keys: Sequence[str] = (),
    max_fan_out: int = 1_000,
    default_options: QueueOptions = STANDARD,
) -> QueueManager:
    """The manager over the backend of that name, not open yet. ``custom``: module and class of one's own.

    Raises InvalidSettings for a backend, a module, a class or a key that is none.
    """
    if backend == "custom" and custom is not None:
        chosen = build_custom_backend(*custom, url)
    elif backend == "memory":
        chosen = build_backend(backend)
    else:
        chosen = build_backend(
            backend, url, namespace=namespace, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s
        )
    return QueueManager(
        chosen,
        codec=Codec(limits=limits, keys=keys),
        max_fan_out=max_fan_out,
        default_options=default_options,
    )

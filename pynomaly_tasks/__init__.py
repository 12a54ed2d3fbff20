"""Distributed anomaly detection jobs on Celery: they survive crashes and show their progress.

Importing this package loads and connects to nothing; each name below is loaded at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pynomaly_tasks.bootstrap import Platform as Platform
    from pynomaly_tasks.bootstrap import add_event_type as add_event_type
    from pynomaly_tasks.bootstrap import app as app
    from pynomaly_tasks.bootstrap import build_platform as build_platform
    from pynomaly_tasks.bootstrap import current_platform as current_platform
    from pynomaly_tasks.events.handlers import on_event as on_event
    from pynomaly_tasks.hybrid.face import enqueue_job as enqueue_job
    from pynomaly_tasks.hybrid.face import enqueue_job_async as enqueue_job_async
    from pynomaly_tasks.hybrid.face import stream_update as stream_update
    from pynomaly_tasks.hybrid.face import stream_update_async as stream_update_async
    from pynomaly_tasks.publishing import publish_event as publish_event
    from pynomaly_tasks.publishing import publish_event_async as publish_event_async
    from pynomaly_tasks.publishing import transaction as transaction
    from pynomaly_tasks.settings import Settings as Settings
    from pynomaly_tasks.tasks.detection import detect_anomalies as detect_anomalies
    from pynomaly_tasks.tasks.detection import detect_ensemble as detect_ensemble
    from pynomaly_tasks.tasks.maintenance import cleanup as cleanup
    from pynomaly_tasks.tasks.maintenance import monitor_health as monitor_health
    from pynomaly_tasks.tasks.maintenance import rescue as rescue
    from pynomaly_tasks.tasks.notifications import send_notification as send_notification
    from pynomaly_tasks.tasks.processing import profile_dataset as profile_dataset
    from pynomaly_tasks.tasks.reports import generate_report as generate_report

_HOMES = {
    "Platform": "bootstrap",
    "add_event_type": "bootstrap",
    "app": "bootstrap",
    "build_platform": "bootstrap",
    "current_platform": "bootstrap",
    "enqueue_job": "hybrid.face",
    "enqueue_job_async": "hybrid.face",
    "on_event": "events.handlers",
    "publish_event": "publishing",
    "publish_event_async": "publishing",
    "stream_update": "hybrid.face",
    "stream_update_async": "hybrid.face",
    "transaction": "publishing",
    "Settings": "settings",
    "detect_anomalies": "tasks.detection",
    "detect_ensemble": "tasks.detection",
    "profile_dataset": "tasks.processing",
    "generate_report": "tasks.reports",
    "send_notification": "tasks.notifications",
    "cleanup": "tasks.maintenance",
    "monitor_health": "tasks.maintenance",
    "rescue": "tasks.maintenance",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]

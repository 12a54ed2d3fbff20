"""What beat sends. Each entry may be sent twice, by two beats, without harm."""

from __future__ import annotations

from celery import Celery

from pynomaly_tasks.queueing.app import TASK_PREFIX
from pynomaly_tasks.tasks import logs

#: Changes beat by being imported.
BEAT_MODULES = (logs,)

HEALTH_EVERY_S = 30.0
CLEANUP_EVERY_S = 3_600.0


def schedule(app: Celery) -> None:
    """Give the app its schedule."""
    app.conf.beat_schedule = {
        # `expires`: after an outage of the workers one of each is enough.
        "health": {
            "task": TASK_PREFIX + "monitor_health",
            "schedule": HEALTH_EVERY_S,
            "options": {"expires": HEALTH_EVERY_S},
        },
        "cleanup": {
            "task": TASK_PREFIX + "cleanup",
            "schedule": CLEANUP_EVERY_S,
            "options": {"expires": CLEANUP_EVERY_S},
        },
        # The default queue's workers rescue by themselves; this serves those that switched it off.
        "rescue": {"task": TASK_PREFIX + "rescue", "schedule": 10.0, "options": {"expires": 10.0}},
    }

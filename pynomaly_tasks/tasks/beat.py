"""What beat sends. Each entry may be sent twice, by two beats, without harm."""

from __future__ import annotations

from datetime import timedelta

from celery import Celery
from celery.beat import Scheduler

from pynomaly_tasks.queueing.app import TASK_PREFIX
from pynomaly_tasks.tasks import logs
from pynomaly_tasks.tasks.startup import settings_or_exit

#: Changes beat by being imported.
BEAT_MODULES = (logs,)

HEALTH_EVERY_S = 30.0
CLEANUP_EVERY_S = 3_600.0
RESCUE_EVERY_S = 10.0


class FilelessScheduler(Scheduler):  # type: ignore[misc]  # Celery has no types
    """Sends every entry when it starts, then as its interval says.

    Celery's default keeps the times in a file in the working directory, which two beats cannot
    share, and which a container loses.
    """

    def setup_schedule(self) -> None:
        """Celery's, with everything due now."""
        super().setup_schedule()
        for name, entry in self.schedule.items():
            interval = self.app.conf.beat_schedule[name]["schedule"]
            entry.last_run_at = entry.default_now() - timedelta(seconds=interval)


def schedule(app: Celery) -> None:
    """Give the app its schedule. Wrong settings end the process."""
    settings_or_exit("beat")
    app.conf.beat_scheduler = FilelessScheduler
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
        "rescue": {
            "task": TASK_PREFIX + "rescue",
            "schedule": RESCUE_EVERY_S,
            "options": {"expires": RESCUE_EVERY_S},
        },
    }

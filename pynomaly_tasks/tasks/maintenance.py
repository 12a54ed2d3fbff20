"""Promotion, rescue and housekeeping: a thread in the workers of the default queue, and plain tasks."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import Any

from celery import bootsteps

from pynomaly_tasks.bootstrap import app, current_platform
from pynomaly_tasks.core.system_events import HEALTH_KEY, SystemHealth
from pynomaly_tasks.errors import PynomalyError
from pynomaly_tasks.jobs.retention import remove_old_jobs
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

_DAY_S = 86_400.0


class Maintenance(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Promotes and rescues in the worker's parent process, without the broker's help.

    As a task it would wait in the queue whose loss it is there to mend. Any number of workers may
    run it: each row is taken by one.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._stopped = threading.Event()

    def start(self, parent: Any) -> None:
        """Start the thread, on workers that serve the default queue."""
        if (
            current_platform().settings.workers.run_maintenance
            and "default" in parent.app.amqp.queues.consume_from
        ):
            threading.Thread(target=self._maintain, name="maintenance", daemon=True).start()

    def stop(self, parent: Any) -> None:
        """End the thread after its current pass."""
        self._stopped.set()

    terminate = stop

    def _maintain(self) -> None:
        platform = current_platform()
        jobs = platform.settings.jobs
        rescue_at_s = 0.0
        while not self._stopped.wait(jobs.promote_every_s):
            try:
                platform.rescuer.promote()
                if time.monotonic() >= rescue_at_s:
                    rescue_at_s = time.monotonic() + jobs.rescue_every_s
                    platform.rescuer.rescue()
                    _collect_undelivered()
            except PynomalyError as error:
                log.warning("maintenance_postponed", error=str(error))
            except Exception:
                # The outermost loop of a thread that every promise hangs on: it must not end.
                log.exception("maintenance_failed")


@app.task(name="pynomaly.tasks.rescue", ignore_result=False, acks_late=False)
def rescue() -> dict[str, int]:
    """One pass of promotion and rescue, at once; the counts of what it did."""
    platform = current_platform()
    n_promoted = platform.rescuer.promote()
    rescued = asdict(platform.rescuer.rescue())
    return {"n_promoted": n_promoted, **rescued, "n_dead_letters": _collect_undelivered()}


@app.task(name="pynomaly.tasks.cleanup", ignore_result=False)
def cleanup() -> dict[str, int]:
    """Remove jobs that ended longer ago than ``data.keep_results_days``, and their files."""
    platform = current_platform()
    age_s = platform.settings.data.keep_results_days * _DAY_S
    return {"n_removed": remove_old_jobs(platform.store, platform.artifacts, age_s=age_s)}


@app.task(name="pynomaly.tasks.monitor_health", ignore_result=False)
def monitor_health() -> dict[str, Any]:
    """How many jobs each queue has in each state, and how many messages wait; told as ``system.health``."""
    platform = current_platform()
    counts: dict[str, dict[str, int]] = {}
    for (queue, job_state), n_jobs in platform.store.count_by_state().items():
        counts.setdefault(queue, {})[job_state.value] = n_jobs
    ready = {queue: platform.queue.n_ready(queue) for queue in counts}
    platform.store.add_events([SystemHealth(jobs=counts, messages_ready=ready)], key=HEALTH_KEY)
    platform.bell.ring()
    return {"type": "health", "jobs": counts, "messages_ready": ready, "at": time.time()}


def _collect_undelivered() -> int:
    # Imported here: it loads the transport and redis-py, and importing a task must cost little.
    from pynomaly_tasks.tasks import undelivered

    return undelivered.collect()

"""Turns the app into a worker for some queues: what each file under ``workers/`` calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

from celery import Celery
from celery.signals import celeryd_after_setup, worker_process_init, worker_process_shutdown

from pynomaly_tasks.bootstrap import app, current_platform
from pynomaly_tasks.queueing.app import QUEUES
from pynomaly_tasks.settings import limit_library_threads
from pynomaly_tasks.tasks import detection, logs, maintenance, notifications, processing, reports, revoke
from pynomaly_tasks.tasks.sharing import share_imports
from pynomaly_tasks.tasks.startup import settings_or_exit
from pynomaly_tasks.tasks.watch import Watch

#: Every module that defines tasks.
TASK_MODULES = (detection, processing, reports, notifications, maintenance)
#: Modules that change the worker by being imported: its logs, its answer to ``revoke``.
WORKER_MODULES = (logs, revoke)


def build_worker(
    queues: Sequence[str] = tuple(QUEUES),
    *,
    pool: Literal["prefork", "threads"],
    imports: Sequence[str] = (),
) -> Celery:
    """The app as a worker for ``queues`` (``-Q``, ``-P`` and ``-c`` still win).

    ``imports``: what the work needs and is slow to import: see `pynomaly_tasks.tasks.sharing`.
    """
    settings = settings_or_exit("worker")
    app.conf.worker_pool = pool
    app.conf.worker_concurrency = (
        settings.workers.cpu_concurrency if pool == "prefork" else settings.workers.io_concurrency
    )
    app.steps["worker"].add(Watch)
    app.steps["worker"].add(maintenance.Maintenance)
    if imports:
        app.steps["worker"].add(share_imports(imports))

    def prepare_parent(instance: Any, **kwargs: Any) -> None:
        if not instance.app.amqp.queues._consume_from:
            instance.app.amqp.queues.select(list(queues))
        limit_library_threads(max(1, (os.cpu_count() or 1) // instance.concurrency))
        platform = current_platform()
        _ = platform.store, platform.runner  # migrated and checked before the first job

    celeryd_after_setup.connect(prepare_parent, weak=False)

    def prepare_child(**kwargs: Any) -> None:
        _ = current_platform().runner

    worker_process_init.connect(prepare_child, weak=False)

    def end_child(**kwargs: Any) -> None:
        # A child of the pool ends without Python's own handlers for that.
        current_platform().close()

    worker_process_shutdown.connect(end_child, weak=False)
    return app

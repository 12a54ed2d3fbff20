"""Slow libraries in the memory of all child processes once, without a slow start.

Children share what their parent had imported when it forked them; what each imports by itself costs
its memory anew, about 100 MiB for scikit-learn. Importing that before the first fork would keep the
worker from its work for two seconds more. So the first children are forked without it; the parent
imports it beside its work, then replaces those children, each while it has nothing to do.
"""

from __future__ import annotations

import gc
import importlib
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from celery import bootsteps

from pynomaly_tasks.telemetry import get_logger

_LOOK_EVERY_S = 0.1

log = get_logger(__name__)


def share_imports(modules: Sequence[str]) -> type[ShareImports]:
    """The step for a worker whose children share these modules."""
    return type("ShareImports", (ShareImports,), {"modules": tuple(modules)})


class ShareImports(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Imports ``modules`` once the worker is ready, and replaces the children that were forked without.

    On a pool of threads the imports are all there is to do.
    """

    requires = ("celery.worker.components:Pool",)
    modules: tuple[str, ...] = ()

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._thread: threading.Thread | None = None
        self._unshared: dict[int, Any] = {}  # the first children, by the descriptor they get jobs from
        self._timer: Any = None

    def register_with_event_loop(self, parent: Any, hub: Any) -> None:
        """Celery calls this when the worker is ready, and again after each lost connection."""
        if self._thread is None:
            first = getattr(getattr(parent.pool, "_pool", None), "_pool", [])
            self._unshared = {child.inqW_fd: child for child in first}
            self._thread = threading.Thread(target=self._import, name="share-imports", daemon=True)
            os.register_at_fork(before=self._wait_for_imports)
            self._thread.start()
        if self._timer is not None:
            self._timer.cancel()
        if self._unshared:
            self._timer = hub.call_repeatedly(_LOOK_EVERY_S, self._replace_when_imported, parent.pool)

    def stop(self, parent: Any) -> None:
        """Replace no more children; let the interpreter tidy up what `gc.freeze` kept from it."""
        if self._timer is not None:
            self._timer.cancel()
        gc.unfreeze()

    def _import(self) -> None:
        started_s = time.monotonic()
        for module in self.modules:
            importlib.import_module(module)
        log.info(
            "imports_shared", modules=list(self.modules), import_s=round(time.monotonic() - started_s, 2)
        )

    def _wait_for_imports(self) -> None:
        # A child forked in the middle of an import would for ever wait for that import's lock.
        assert self._thread is not None
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _replace_when_imported(self, task_pool: Any) -> None:
        """In the event loop, which alone gives jobs to children."""
        assert self._thread is not None
        if self._thread.is_alive():
            return
        self._timer.cancel()
        pool = task_pool._pool
        # Collecting garbage writes to every object that it looks at, and so copies the page it is on.
        gc.collect()
        gc.freeze()

        def free(inq_fd: int) -> None:
            child = self._unshared.pop(inq_fd, None)
            if child in pool._pool:
                pool._busy_workers.add(inq_fd)  # until it is gone: it gets no job any more
                child.terminate_controlled()
            else:
                pool._busy_workers.discard(inq_fd)

        pool._mark_worker_as_available = free  # called for each child that has ended a job
        for inq_fd in [fd for fd in self._unshared if fd not in pool._busy_workers]:
            free(inq_fd)

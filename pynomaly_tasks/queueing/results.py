"""Celery's copy of how a job stands, for ``AsyncResult``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery.backends.redis import RedisBackend

#: A worker tries for this long to write how a job ended: Redis needs that to restart. After it,
#: `.get()` does not hear of the end; the store has it all the same.
PATIENCE_S = 30.0
_PAUSE_S = 0.5


class Results(RedisBackend):  # type: ignore[misc]  # Celery has no types
    """Celery's results on Redis, patient with how a task ended and impatient with its progress.

    Celery 5.7.0 reads before it writes and does not repeat the read, so a Redis that restarts just
    then loses the result and, in a chord, the chord. Its progress it repeats for many seconds, and the
    job would be held up for as long as Redis is away.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._local = threading.local()

    def note(self, task_id: str, state: str, meta: Mapping[str, Any], request: Any) -> None:
        """Write a state that is not the last, with one try. Raises what redis-py and Celery raise."""
        with self.impatient():
            self.store_result(task_id, dict(meta), state, request=request)

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Within the block, this thread tries once."""
        self._local.impatient = True
        try:
            yield
        finally:
            self._local.impatient = False

    def store_result(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's, with patience."""
        return self._patiently(lambda: super(Results, self).store_result(*args, **kwargs))

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's, with patience; it counts a part once, however often it is told."""
        return self._patiently(lambda: super(Results, self).on_chord_part_return(*args, **kwargs))

    def _patiently(self, call: Callable[[], Any]) -> Any:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except self.connection_errors:
                if getattr(self._local, "impatient", False) or time.monotonic() > until_s:
                    raise
                time.sleep(_PAUSE_S)

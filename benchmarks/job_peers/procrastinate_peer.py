"""procrastinate on PostgreSQL, one worker process with two tasks at once (threads for sync tasks)."""

import os
import sys

import procrastinate
from common import POSTGRES_URL, count

_ASYNC = os.environ.get("BENCH_ROLE") == "worker"
_connector = procrastinate.PsycopgConnector if _ASYNC else procrastinate.SyncPsycopgConnector
app = procrastinate.App(connector=_connector(conninfo=POSTGRES_URL))


@app.task(name="noop")
def noop() -> None:
    count()


def submit() -> None:
    _open()
    noop.defer()


def submit_many(n_jobs: int) -> None:
    _open()
    noop.batch_defer(*[{}] * n_jobs)


def prepare() -> None:
    _open()
    app.schema_manager.apply_schema()


_opened = False


def _open() -> None:
    global _opened
    if not _opened:
        app.open()
        _opened = True


WORKERS = [
    [
        sys.executable,
        "-m",
        "procrastinate",
        "--app",
        "procrastinate_peer.app",
        "worker",
        "--concurrency",
        "2",
    ]
]

"""The platform's own work as tasks over message queues: the same code as the jobs', without Celery.

A task makes no job: no row, no events, no dead letter. Its result is the summary that the job would
have, with the keys of the files it left (`task_files`); `detail.json` among them is the whole result.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.core.job import JobResult
from pynomaly_tasks.errors import NotFound, TaskFailed
from pynomaly_tasks.jobs.context import Kind, Outcome
from pynomaly_tasks.jobs.retention import remove_old_jobs
from pynomaly_tasks.jobs.validation import validated

if TYPE_CHECKING:
    from pynomaly_tasks.kinds.services import Results, Services
    from pynomaly_tasks.messaging import QueueManager
    from pynomaly_tasks.messaging.tasks import TaskContext, Tasks
    from pynomaly_tasks.store.artifacts import ArtifactStore

#: Type of task -> kind of job that does its work. For the other types but cleanup the platform has no
#: work of its own yet: model_training, data_processing, export, import and validation need a handler.
KIND_OF: Mapping[str, str] = MappingProxyType(
    {
        "anomaly_detection": "detect_anomalies",
        "data_profiling": "profile_dataset",
        "report_generation": "generate_report",
        "notification": "send_notification",
    }
)
_DETAIL = "detail.json"
#: Handlers run in threads, and what they share is made, the tables of the store too, by the first of them.
_MAKING = threading.Lock()


def build_tasks(manager: QueueManager, platform: Platform) -> Tasks:
    """Tasks over an open manager, with a handler for each type that the platform has work for."""
    from pynomaly_tasks.messaging.tasks import Tasks

    tasks = Tasks(manager)
    for task_type, kind_name in KIND_OF.items():
        kind = platform.kinds[kind_name]
        tasks.add_handler(task_type, partial(_perform, platform, kind), check=partial(_check, platform, kind))
    tasks.add_handler("cleanup", partial(_clean_up, platform))
    return tasks


def task_files(platform: Platform) -> ArtifactStore:
    """The files that tasks left, by the keys in their results."""
    from pynomaly_tasks.store.artifacts import ArtifactStore

    # Beside the jobs' and not among them, so that neither's cleanup meets the other's.
    return ArtifactStore(f"{platform.settings.artifacts_url().rstrip('/')}-of-tasks")


class _RunningTask:
    """A task's context as the kinds of jobs see it."""

    def __init__(self, context: TaskContext, scratch: Path) -> None:
        self.job_id = context.task_id
        self.attempt = context.attempt
        self.scratch = scratch
        self.progress: Callable[[int, int, str], None] = context.progress
        self.checkpoint = context.checkpoint


class _TaskResults:
    """Results of tasks, else of jobs: a report may be about either."""

    def __init__(self, context: TaskContext, files: ArtifactStore, jobs: Results) -> None:
        self._context = context
        self._files = files
        self._jobs = jobs

    def get_result(self, job_id: str) -> JobResult:
        """Raises NotFound where neither a task nor a job has one."""
        try:
            result = self._context.result_of(job_id)
        except (TaskFailed, TimeoutError) as error:
            raise NotFound(str(error)) from None
        except NotFound:
            return self._jobs.get_result(job_id)
        if not isinstance(result, dict) or _DETAIL not in (result.get("files") or {}):
            raise NotFound(f"task {job_id} was no work of the platform's, so there is nothing to tell of it")
        return JobResult(
            job_id=job_id,
            attempt=result["attempt"],
            summary=result["summary"],
            detail=orjson.loads(self._files.read_bytes(result["files"][_DETAIL])),
            artifacts=result["files"],
            created_at=datetime.fromisoformat(result["finished_at"]),
        )


def _check(platform: Platform, kind: Kind, arguments: Mapping[str, Any]) -> None:
    request = validated(kind.request_model, arguments)
    if kind.check is not None:
        kind.check(request, platform.datasets)


def _services(platform: Platform) -> Services:
    with _MAKING:
        return platform.services


def _perform(platform: Platform, kind: Kind, context: TaskContext) -> dict[str, Any]:
    files = task_files(platform)
    services = _services(platform)
    services = replace(services, artifacts=files, results=_TaskResults(context, files, services.results))
    root = platform.settings.data.directory.absolute() / "scratch"
    root.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(
        prefix=f"{context.task_id}-", dir=root, ignore_cleanup_errors=True
    ) as folder:
        scratch = Path(folder)
        request = validated(kind.request_model, context.arguments)
        outcome = kind.perform(_RunningTask(context, scratch), request, services)
        (scratch / _DETAIL).write_bytes(orjson.dumps(outcome.detail))
        kept = {
            name: files.put(context.task_id, context.attempt, name, path)
            for name, path in {**outcome.files, _DETAIL: scratch / _DETAIL}.items()
        }
    return {
        "summary": _summary(context, outcome, time.monotonic() - began_s),
        "files": kept,
        "attempt": context.attempt,
        "finished_at": datetime.now(UTC).isoformat(),
    }


def _summary(context: TaskContext, outcome: Outcome, processing_time_s: float) -> dict[str, Any]:
    return {
        "job_id": context.task_id,
        "status": "succeeded",
        "anomalies_found": outcome.anomalies_found,
        "processing_time": round(processing_time_s, 6),
        **outcome.summary,
    }


def _clean_up(platform: Platform, context: TaskContext) -> dict[str, int]:
    """Remove old jobs, and the files of tasks that are as old (their ids tell when they were submitted)."""
    files = task_files(platform)
    _services(platform)  # and with them the store
    age = timedelta(days=platform.settings.data.keep_results_days)
    oldest = datetime.now(UTC) - age
    n_tasks = 0
    for task_id in files.list_ids():
        context.checkpoint()
        if _submitted_at(task_id) < oldest:
            files.delete_job(task_id)
            n_tasks += 1
    n_jobs = remove_old_jobs(platform.store, platform.artifacts, age_s=age.total_seconds())
    return {"n_removed": n_jobs, "n_tasks_removed": n_tasks}


def _submitted_at(task_id: str) -> datetime:
    milliseconds = UUID(task_id).int >> 80
    return datetime.fromtimestamp(milliseconds / 1000, UTC)

"""Where jobs, events, live updates and message queues meet: one face for what an application tells the platform.

Work goes to Celery's queues (`enqueue_job`), facts for other systems to the log of events
(`publish_event`), and what people watch to the live streams (`stream_update`). `platform_tasks`
runs the platform's own work as tasks over message queues.
"""

from pynomaly_tasks.hybrid.face import (
    enqueue_job,
    enqueue_job_async,
    publish_event,
    publish_event_async,
    stream_update,
    stream_update_async,
)

__all__ = [
    "enqueue_job",
    "enqueue_job_async",
    "publish_event",
    "publish_event_async",
    "stream_update",
    "stream_update_async",
]

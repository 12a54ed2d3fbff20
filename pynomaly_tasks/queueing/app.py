"""The Celery app, with the reason for every option."""

from __future__ import annotations

from collections.abc import Callable
from ssl import CERT_REQUIRED
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu import Queue

if TYPE_CHECKING:
    from pynomaly_tasks.settings import Settings

TASK_PREFIX = "pynomaly.tasks."

#: The queues and the tasks each one carries.
QUEUES = {
    "anomaly_detection": ("detect_anomalies", "detect_ensemble"),
    "data_processing": ("profile_dataset",),
    "reports": ("generate_report",),
    "notifications": ("send_notification", "deliver_webhook"),
    "default": ("cleanup", "rescue", "monitor_health"),
}

#: One Redis list a priority. Celery's four steps would make 8 and 9 the same.
PRIORITY_STEPS = list(range(10))

#: A job past its limit stops at its next checkpoint, which loses nothing. One that reaches none for
#: this long is interrupted by a signal, and one that does not heed that is killed.
SIGNAL_AFTER_LIMIT_S = 1.0
KILL_AFTER_LIMIT_S = 5.0


def redis_priority(priority: int) -> int:
    """Ours, 0 to 9 with 9 first, as the Redis transport's, where 0 is first."""
    return 9 - priority


def build_app(load_settings: Callable[[], Settings], *, set_as_current: bool = False) -> Celery:
    """The app; it loads the settings when Celery first asks for an option."""
    # A publish costs half as much with the transport's own producer.
    app = Celery("pynomaly_tasks", set_as_current=set_as_current, amqp="pynomaly_tasks.transport.amqp:AMQP")
    app.add_defaults(lambda: celery_options(load_settings()))
    return app


def celery_options(settings: Settings) -> dict[str, Any]:
    """Every option that differs from Celery's default, and why."""
    redis = settings.redis
    jobs = settings.jobs
    sockets = {
        # Celery's defaults wait for ever on a half-open connection.
        "socket_timeout": redis.socket_timeout_s,
        "socket_connect_timeout": redis.connect_timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }
    return {
        "broker_url": redis.broker(),
        # kombu's loses messages when a worker is killed, gives out again what still runs, and dies of
        # a malformed message; see docs/transport.md.
        "broker_transport": _Transport("pynomaly_tasks.transport:Transport"),
        "broker_use_ssl": _tls(redis.broker()),
        "redis_backend_use_ssl": _tls(redis.results()),
        "broker_transport_options": {
            **sockets,
            "priority_steps": PRIORITY_STEPS,
            # What a dead worker had taken and not begun comes back as fast as what it ran.
            "lease_s": jobs.lease_s,
            # Every publish of the platform wakes an idle worker. What a process without it sends with
            # `app.send_task` waits for this long at most. It costs an idle worker 0.3 % of a core,
            # kombu's own waiting 0.15 %, a tenth of the time 0.8 %.
            "wait_s": 0.3,
            # A message carries its request in base64, and those of the tasks that follow in its chain.
            "max_message_bytes": (max_bytes := 1_000_000 + 16 * 1_024 * jobs.max_request_kb),
            "max_body_bytes": max_bytes,
            # JSON only: unpickling what somebody put into Redis would run their code.
            "accept_content_types": ["application/json"],
            # What cannot be delivered or is refused: into the store's dead letters.
            "on_malformed": "pynomaly_tasks.tasks.undelivered:keep",
            # Only for what a worker on kombu's own transport held when it died, as in a rolling change
            # from an older version. Ours hold a lease.
            "visibility_timeout": jobs.max_time_limit_s + 3_600.0,
            # A publish to a broker that is down fails at once: the job is stored, and rescue rings for
            # it later. kombu's default tries for ever, so that `.delay()` never returns. The worker's
            # own reconnecting is the option `broker_connection_max_retries`.
            "max_retries": 0,
        },
        # A broker that is down at start, or goes away, is waited for: processes start in any order.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Each publish is tried by the queue itself, and rescue repeats what was not sent; with
        # Celery's own policy a `.delay()` would hang while the broker is down.
        "task_publish_retry": False,
        # Celery's own, patient where it matters; see the module.
        "result_backend": f"pynomaly_tasks.queueing.results:Results+{redis.results()}",
        "result_backend_transport_options": {"retry_policy": {"max_retries": 0}},
        "redis_socket_timeout": redis.socket_timeout_s,
        "redis_socket_connect_timeout": redis.connect_timeout_s,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": 10,
        # The store has the history; Celery's copy is for `.get()`.
        "result_expires": 86_400,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        # No compression: a message is about 1 KB, and gzip costs more time there than it saves.
        "task_compression": None,
        "task_default_queue": "default",
        "task_queues": [Queue(name, routing_key=name) for name in QUEUES],
        "task_routes": {
            TASK_PREFIX + name: {"queue": queue} for queue, names in QUEUES.items() for name in names
        },
        "task_default_priority": redis_priority(0),
        # A message is acknowledged when its job has ended, so a worker that dies gives it back.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A message in advance for each slot would save a round trip, and would have a job wait behind a
        # long one on a worker while another worker is idle.
        "worker_prefetch_multiplier": 1,
        # The worker writes STARTED itself, when the job is claimed: Celery would write it for a
        # repeated delivery too, over the state of the attempt that runs.
        "task_track_started": False,
        "worker_send_task_events": True,
        # Of a job that names no limit; a message that names one carries it.
        "task_time_limit": jobs.time_limit_s + KILL_AFTER_LIMIT_S,
        "task_soft_time_limit": jobs.time_limit_s + SIGNAL_AFTER_LIMIT_S,
        # With broker and results on one Redis, True lost the running task at every restart of it.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # A worker that reconnects works on as before.
        "worker_enable_prefetch_count_reduction": False,
        # Carries a fix for Celery 5.7.0; see the module.
        "worker_consumer": "pynomaly_tasks.tasks.consumer:JobConsumer",
        # A child process that leaks is replaced before it hurts.
        "worker_max_tasks_per_child": settings.workers.max_tasks_per_child,
        # On SIGQUIT a running job gets this long before it is given back.
        "worker_soft_shutdown_timeout": jobs.lease_s,
        # The platform sets up its own logs, one format for all processes.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
        "timezone": "UTC",
        "beat_max_loop_interval": 5,
    }


class _Transport(str):
    """A dotted name that is written as ``redis`` into URLs, which Flower reads to look into the queues."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return format("redis", spec)


def _tls(url: str) -> dict[str, Any] | None:
    """kombu takes no certificate for granted over rediss:// and Celery's results ask for a choice.

    What the URL says (``?ssl_cert_reqs=...&ssl_ca_certs=...``) goes before this.
    """
    return {"ssl_cert_reqs": CERT_REQUIRED} if url.startswith("rediss://") else None

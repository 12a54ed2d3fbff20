"""Tasks of the queue ``notifications``."""

from __future__ import annotations

from pynomaly_tasks.tasks.register import job_task

send_notification = job_task("send_notification")
deliver_webhook = job_task("deliver_webhook")

"""Every kind of job: its request, and the work it does. Importing this loads pydantic only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pynomaly_tasks.jobs.context import Kind
from pynomaly_tasks.kinds import (
    deliver_webhook,
    detect_anomalies,
    detect_ensemble,
    generate_report,
    profile_dataset,
    send_notification,
)

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                name="detect_anomalies",
                queue="anomaly_detection",
                request_model=detect_anomalies.DetectAnomaliesRequest,
                perform=detect_anomalies.perform,
                check=detect_anomalies.check,
            ),
            Kind(
                name="detect_ensemble",
                queue="anomaly_detection",
                request_model=detect_ensemble.DetectEnsembleRequest,
                perform=detect_ensemble.perform,
                check=detect_ensemble.check,
            ),
            Kind(
                name="profile_dataset",
                queue="data_processing",
                request_model=profile_dataset.ProfileDatasetRequest,
                perform=profile_dataset.perform,
                check=profile_dataset.check,
            ),
            Kind(
                name="generate_report",
                queue="reports",
                request_model=generate_report.GenerateReportRequest,
                perform=generate_report.perform,
            ),
            Kind(
                name="send_notification",
                queue="notifications",
                request_model=send_notification.SendNotificationRequest,
                perform=send_notification.perform,
            ),
            Kind(
                name="deliver_webhook",
                queue="notifications",
                request_model=deliver_webhook.DeliverWebhookRequest,
                perform=deliver_webhook.perform,
                time_limit_s=deliver_webhook.TIME_LIMIT_S,
            ),
        )
    }
)

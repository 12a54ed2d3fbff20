"""Worker for ``anomaly_detection``, CPU work in child processes: ``celery -A workers.detection worker``."""

from pynomaly_tasks.tasks.worker import build_worker

app = build_worker(
    ["anomaly_detection"], pool="prefork", imports=["duckdb", "pyarrow.parquet", "sklearn.ensemble"]
)

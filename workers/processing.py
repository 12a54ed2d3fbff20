"""Worker for ``data_processing``, CPU work in child processes: ``celery -A workers.processing worker``."""

from pynomaly_tasks.tasks.worker import build_worker

app = build_worker(["data_processing"], pool="prefork", imports=["duckdb", "pyarrow.parquet"])

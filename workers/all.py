"""Worker for every queue, as the embedded platform runs it: ``celery -A workers.all worker``."""

from pynomaly_tasks.tasks.worker import build_worker

app = build_worker(
    pool="prefork", imports=["duckdb", "pyarrow.parquet", "sklearn.ensemble", "jinja2", "apprise"]
)

"""Settings of the job engine and of what it stands on: Redis, the database, files, workers."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from pynomaly_tasks.settings.section import Seconds, Section


class RedisSettings(Section):
    """Celery's broker and results, and the live streams."""

    url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379"),
        description="Server without a database number: broker, results and streams are databases 1, 2 and 3 on it. "
        "Over TLS `rediss://host?ssl_ca_certs=/path`; its certificate is checked.",
    )
    broker_url: SecretStr | None = Field(None, description="Broker, where it is a server of its own.")
    results_url: SecretStr | None = Field(
        None, description="Results, where they are on a server of their own."
    )
    streams_url: SecretStr | None = Field(
        None, description="Streams, where they are on a server of their own."
    )
    socket_timeout_s: Seconds = Field(10.0, description="An unanswered command fails after this long.")
    connect_timeout_s: Seconds = Field(2.0, description="A connection that is not made by then fails.")

    def broker(self) -> str:
        """URL of the broker database."""
        return self._database(self.broker_url, 1)

    def results(self) -> str:
        """URL of the result database."""
        return self._database(self.results_url, 2)

    def streams(self) -> str:
        """URL of the stream database."""
        return self._database(self.streams_url, 3)

    def messages(self) -> str:
        """URL of the database for message queues, where they have no broker of their own."""
        return self._database(None, 4)

    def _database(self, own: SecretStr | None, number: int) -> str:
        if own is not None:
            return own.get_secret_value()
        server, mark, options = self.url.get_secret_value().partition("?")
        return f"{server.rstrip('/')}/{number}{mark}{options}"


class StoreSettings(Section):
    """The database that holds the jobs."""

    url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL, sqlite:// or postgresql+psycopg://. Unset: SQLite in the data directory.",
    )
    pool_size: int = Field(4, ge=1, le=100, description="PostgreSQL connections a process keeps.")


class DataSettings(Section):
    """Files: what jobs read and what they leave."""

    directory: Path = Field(Path(".pynomaly"), description="Everything the embedded platform keeps.")
    roots: tuple[Path, ...] = Field(
        (),
        description="Directories that datasets may be read from, beside the data directory's uploads. JSON list.",
    )
    artifacts_url: str | None = Field(
        None,
        description="Where results are kept: a directory or s3://bucket/prefix. Unset: in the data directory.",
    )
    max_upload_mb: int = Field(1024, ge=1, le=1_048_576, description="Largest upload, in MiB.")
    max_columns: int = Field(2_000, ge=1, le=100_000, description="Widest dataset.")
    max_rows: int = Field(1_000_000_000, ge=1, description="Longest dataset.")
    memory_limit_mb: int = Field(
        1_024, ge=64, description="What duckdb may use, in MiB; past it, it spills to disk."
    )
    sample_rows: int = Field(
        50_000, ge=100, description="Rows of the seeded sample that detectors are fitted on."
    )
    keep_results_days: float = Field(
        30.0, gt=0, description="`cleanup` removes ended jobs and their files after this."
    )


class JobSettings(Section):
    """The job engine's promises, in seconds."""

    lease_s: Seconds = Field(
        20.0, description="A job whose worker was not heard of for this long is queued again."
    )
    heartbeats_per_lease: int = Field(4, ge=2, le=20, description="Renewals within one lease.")
    rescue_every_s: Seconds = Field(
        2.0, description="How often expired leases and lost messages are looked for."
    )
    lost_message_after_s: Seconds = Field(
        10.0,
        description="A queued job that is in no queue this long after it was published is published again.",
    )
    promote_every_s: Seconds = Field(0.5, description="How often waiting jobs that are due are queued.")
    cancel_grace_s: Seconds = Field(
        0.7, description="A cancelled job that has not stopped by itself is killed after this."
    )
    cancel_poll_s: Seconds = Field(
        0.3,
        description="How often a worker looks for cancelled jobs among its own by itself; the broker tells it at once.",
    )
    time_limit_s: Seconds = Field(3_600.0, description="Of one attempt, unless the job names another.")
    max_time_limit_s: Seconds = Field(4 * 3_600.0, description="The longest limit a job may name.")
    max_lost_attempts: int = Field(
        3, ge=1, le=20, description="A job that killed its worker this often is a dead letter."
    )
    progress_every_s: Seconds = Field(0.5, description="Progress is written at most this often.")
    max_request_kb: int = Field(1_024, ge=1, le=16_384, description="Largest request, in KiB of JSON.")


class WorkerSettings(Section):
    """Celery worker processes."""

    cpu_concurrency: int = Field(2, ge=1, le=256, description="Child processes of a worker for CPU work.")
    io_concurrency: int = Field(
        8, ge=1, le=512, description="Threads of a worker for reports and notifications."
    )
    max_tasks_per_child: int = Field(
        500, ge=1, description="A child process is replaced after this many tasks."
    )
    run_maintenance: bool = Field(
        True,
        description="Workers of the default queue promote and rescue, so that an installation without beat is safe.",
    )

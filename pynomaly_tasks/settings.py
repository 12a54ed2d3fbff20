"""The one place that reads the environment: every setting, its unit, its default, and the rules between them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pynomaly_tasks.errors import FieldProblem, InvalidSettings

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
EMBEDDED_ENV_FILE = "embedded.env"  #: written by `pynomaly up`, so that every other process finds it


class Section(BaseModel):
    """A group of settings for one neighbour."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class WebSettings(Section):
    """The web page and its JSON interface."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on. Anything but loopback needs an API key."
    )
    port: int = Field(8080, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = Field(None, description="Asked for in X-API-Key or as a bearer token.")


class NotificationSettings(Section):
    """Channels that send_notification may name."""

    channels: dict[str, SecretStr] = Field(
        default_factory=dict,
        description='Name to Apprise URL, as JSON: {"ops": "mailto://..."}. The channel "log" is always there.',
    )
    timeout_s: Seconds = Field(15.0, description="One delivery.")


class LogSettings(Section):
    """Logs of the platform's own processes."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity written.")
    format: Literal["console", "json"] = Field("console", description="For people, or for a log collector.")


def _check_port(field: str, url: SecretStr) -> None:
    try:
        _ = urlsplit(url.get_secret_value()).port
    except ValueError:
        # The parser's own message would hold what it took for the port: often a piece of a password.
        raise ValueError(
            f"{field} has a port that is no number up to 65535; write the characters : / ? # @ of a "
            "password percent-encoded"
        ) from None


class _EmbeddedFile(DotEnvSettingsSource):
    """`<data directory>/embedded.env`, while `pynomaly up` runs there; the environment wins over it."""


def _embedded_file(directory: Path) -> Path | None:
    """The file, unless the process that wrote it was killed before it could remove it."""
    file = directory / EMBEDDED_ENV_FILE
    try:
        pid = int(file.read_text().split("\n", 1)[0].removeprefix("# pid "))
        os.kill(pid, 0)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, ValueError):
        return None
    except PermissionError:
        return file  # it runs, as another user
    return file


class Settings(BaseSettings):
    """Every setting, from ``PYNOMALY_<SECTION>__<FIELD>`` in the environment.

    Raises InvalidSettings (through `load_settings`) naming each field that is wrong.
    """

    model_config = SettingsConfigDict(
        env_prefix="PYNOMALY_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    redis: RedisSettings = Field(default_factory=RedisSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    workers: WorkerSettings = Field(default_factory=WorkerSettings)
    web: WebSettings = Field(default_factory=WebSettings)
    notifications: NotificationSettings = Field(default_factory=NotificationSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file of a running embedded platform."""
        assert isinstance(env_settings, EnvSettingsSource)
        directory = env_settings.env_vars.get("pynomaly_data__directory") or ".pynomaly"
        embedded = _EmbeddedFile(settings_cls, env_file=_embedded_file(Path(directory)))
        return init_settings, env_settings, embedded

    @model_validator(mode="after")
    def _rules_between_fields(self) -> Self:
        jobs = self.jobs
        if jobs.time_limit_s > jobs.max_time_limit_s:
            raise ValueError(
                f"jobs.time_limit_s ({jobs.time_limit_s:g}) must not exceed "
                f"jobs.max_time_limit_s ({jobs.max_time_limit_s:g})"
            )
        if jobs.lease_s / jobs.heartbeats_per_lease < 0.2:
            raise ValueError(
                f"jobs.lease_s ({jobs.lease_s:g}) divided by jobs.heartbeats_per_lease "
                f"({jobs.heartbeats_per_lease}) must be at least 0.2 s"
            )
        if self.web.host not in {"127.0.0.1", "::1", "localhost"} and self.web.api_key is None:
            raise ValueError(f"web.host ({self.web.host}) is not loopback, so web.api_key must be set")
        for name in ("url", "broker_url", "results_url", "streams_url"):
            secret = getattr(self.redis, name)
            if secret is not None:
                scheme = urlsplit(secret.get_secret_value()).scheme
                if scheme not in {"redis", "rediss"}:
                    raise ValueError(
                        f"redis.{name} starts with {scheme}://; it must be redis:// or rediss:// (Celery "
                        "does not support a Redis Cluster, and this platform no Sentinel yet: name one "
                        "server, or the address that a managed Redis keeps over its failovers)"
                    )
                _check_port(f"redis.{name}", secret)
        if self.store.url is not None:
            _check_port("store.url", self.store.url)
            scheme = urlsplit(self.store.url.get_secret_value()).scheme
            if scheme not in {"sqlite", "postgresql+psycopg"}:
                raise ValueError(
                    f"store.url starts with {scheme}://; it must be sqlite:// or postgresql+psycopg://"
                )
        return self

    def store_url(self) -> str:
        """SQLAlchemy URL of the job store."""
        if self.store.url is not None:
            return self.store.url.get_secret_value()
        return f"sqlite:///{self.data.directory.absolute() / 'jobs.sqlite3'}"

    def artifacts_url(self) -> str:
        """Directory or s3:// URL that results are kept under."""
        return self.data.artifacts_url or str(self.data.directory.absolute() / "artifacts")

    def uploads_directory(self) -> Path:
        """Where uploads and imported datasets lie."""
        return self.data.directory.absolute() / "uploads"


def load_settings() -> Settings:
    """The settings of this environment. Raises InvalidSettings, naming every wrong field."""
    _refuse_what_celery_reads_itself()
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidSettings(
            *(
                FieldProblem(
                    field=".".join(str(part) for part in problem["loc"]) or "settings",
                    message=problem["msg"].removeprefix("Value error, "),
                )
                for problem in error.errors(include_input=False, include_url=False)
            )
        ) from None
    except SettingsError as error:
        # Its cause holds the value, which may be a secret.
        raise InvalidSettings.of(
            "settings", f'{error}; lists and mappings are JSON, such as ["/data"]'
        ) from None


#: Variables that Celery takes before its app's own options, and what to set in their place.
_READ_BY_CELERY = {
    "CELERY_BROKER_URL": "PYNOMALY_REDIS__BROKER_URL",
    "CELERY_BROKER_READ_URL": "PYNOMALY_REDIS__BROKER_URL",
    "CELERY_BROKER_WRITE_URL": "PYNOMALY_REDIS__BROKER_URL",
    "CELERY_RESULT_BACKEND": "PYNOMALY_REDIS__RESULTS_URL",
}


def _refuse_what_celery_reads_itself() -> None:
    """Jobs would be sent to another broker than the one that is watched, or fail at their end."""
    problems = [
        FieldProblem(field=name, message=f"goes before the platform's settings; unset it, and set {instead}")
        for name, instead in _READ_BY_CELERY.items()
        if os.environ.get(name)
    ]
    if problems:
        raise InvalidSettings(*problems)


@lru_cache(maxsize=1)
def current_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()


def limit_library_threads(n_threads: int) -> None:
    """Give BLAS and OpenMP this many threads, unless the environment says otherwise.

    Each slot's job would otherwise take every core. They look when they are first imported, so
    call it before that.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(n_threads))

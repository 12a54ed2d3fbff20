"""The one place that reads the environment: every setting, its unit, its default, and the rules between them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pynomaly_tasks.errors import FieldProblem, InvalidSettings
from pynomaly_tasks.settings.engine import (
    DataSettings,
    JobSettings,
    RedisSettings,
    StoreSettings,
    WorkerSettings,
)
from pynomaly_tasks.settings.events import (
    AlertSettings,
    EventSettings,
    KafkaSettings,
    MetricsSettings,
    OutboxSettings,
    WebhookSettings,
)
from pynomaly_tasks.settings.faces import LiveSettings, LogSettings, NotificationSettings, WebSettings
from pynomaly_tasks.settings.messaging import MessagingSettings

EMBEDDED_ENV_FILE = "embedded.env"  #: written by `pynomaly up`, so that every other process finds it


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


#: How the URL of the message queues begins, where the backend can tell.
_BROKER_SCHEMES = {"redis_streams": ("redis", "rediss"), "kafka": ("kafka", "kafkas")}


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
    live: LiveSettings = Field(default_factory=LiveSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    events: EventSettings = Field(default_factory=EventSettings)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    outbox: OutboxSettings = Field(default_factory=OutboxSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    messaging: MessagingSettings = Field(default_factory=MessagingSettings)

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
        sasl = self.kafka.security_protocol.startswith("SASL_")
        if sasl and (self.kafka.sasl_username is None or self.kafka.sasl_password is None):
            raise ValueError(
                f"kafka.security_protocol is {self.kafka.security_protocol}, so kafka.sasl_username and "
                "kafka.sasl_password must be set"
            )
        if self.outbox.lease_s <= self.kafka.timeout_s / 2:
            raise ValueError(
                f"outbox.lease_s ({self.outbox.lease_s:g}) must be longer than half of kafka.timeout_s "
                f"({self.kafka.timeout_s:g})"
            )
        unknown = sorted(set(self.alerts.channels) - set(self.notifications.channels) - {"log"})
        if unknown:
            raise ValueError(
                f"alerts.channels names {', '.join(unknown)}, which notifications.channels does not define"
            )
        self._check_messaging()
        if self.store.url is not None:
            _check_port("store.url", self.store.url)
            scheme = urlsplit(self.store.url.get_secret_value()).scheme
            if scheme not in {"sqlite", "postgresql+psycopg"}:
                raise ValueError(
                    f"store.url starts with {scheme}://; it must be sqlite:// or postgresql+psycopg://"
                )
        return self

    def _check_messaging(self) -> None:
        messaging = self.messaging
        named = messaging.custom_module is not None and messaging.custom_class is not None
        if messaging.backend == "custom" and not named:
            raise ValueError(
                "messaging.backend is custom, so messaging.custom_module and messaging.custom_class must be set"
            )
        if messaging.url is None:
            if messaging.backend not in {"memory", "redis_streams", "custom"}:
                raise ValueError(f"messaging.backend is {messaging.backend}, so messaging.url must be set")
            return
        schemes = _BROKER_SCHEMES.get(messaging.backend, ())
        scheme = urlsplit(messaging.url.get_secret_value()).scheme
        if schemes and scheme not in schemes:
            raise ValueError(
                f"messaging.url starts with {scheme}://, and messaging.backend is {messaging.backend}; it must be "
                + " or ".join(f"{each}://" for each in schemes)
            )
        if messaging.backend == "redis_streams":
            _check_port("messaging.url", messaging.url)

    def messaging_url(self) -> str:
        """The broker of the message queues."""
        own = self.messaging.url
        return self.redis.messages() if own is None else own.get_secret_value()

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

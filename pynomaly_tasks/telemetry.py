"""Logs and metrics of the platform's processes: constant event names with fields, for people or a collector."""

from __future__ import annotations

import logging
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from pynomaly_tasks.errors import InvalidSettings

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor


class _Logger:
    """Loads structlog when something is logged: it takes longer to import than a job to submit."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        import structlog

        return getattr(structlog.stdlib.get_logger(self._name), method)


def get_logger(name: str) -> FilteringBoundLogger:
    """The logger of a module, for constant events with fields: ``log.info("job_settled", job_id=job.id)``."""
    return cast("FilteringBoundLogger", _Logger(name))


def configure_logging(
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["console", "json"] = "console",  # noqa: A002  # the setting has this name
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process, the libraries' too, to ``stream`` (standard error).

    ``console`` is for people, ``json`` one object a line. Fields bound with
    ``structlog.contextvars.bind_contextvars`` are on every line of the thread or task that bound them.
    Calling it again replaces what was set before.
    """
    import structlog

    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(format, stream),
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Two lines of its own at every start say nothing about the jobs.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _renderers(format_name: str, stream: TextIO) -> list[Processor]:
    import structlog

    if format_name == "json":
        # Without the variables of every frame: they hold secrets and data, and take seconds to print.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


def serve_metrics(host: str, port: int | None) -> None:
    """Serve this process's Prometheus metrics at ``/metrics``, from a thread; nothing where ``port`` is None.

    0 takes a free port, which the log names. Raises InvalidSettings when the port cannot be taken.
    """
    if port is None:
        return
    from prometheus_client import start_http_server

    try:
        server, _ = start_http_server(port, host)
    except OSError as error:
        raise InvalidSettings.of(
            "metrics.port", f"{host}:{port} cannot be taken ({error.strerror or error}); name a free one"
        ) from error
    get_logger(__name__).info("metrics_served", host=host, port=server.server_port)


#: Of aiokafka: while Kafka is away they repeat themselves a hundred times a second.
_KAFKA_LOGGERS = (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.consumer",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
)
_SELDOM_S = 30.0


class _Seldom(logging.Filter):
    """Lets a message pass once in a while, whatever its arguments; tracebacks always."""

    def __init__(self) -> None:
        super().__init__()
        self._next_at_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            return True
        message, now_s = str(record.msg), time.monotonic()
        if self._next_at_s.get(message, 0.0) > now_s:
            return False
        self._next_at_s[message] = now_s + _SELDOM_S
        return True


@cache
def calm_kafka_logs() -> None:
    """Have aiokafka say each thing once in a while, in this process."""
    for name in _KAFKA_LOGGERS:
        logging.getLogger(name).addFilter(_Seldom())

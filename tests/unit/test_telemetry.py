from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from pynomaly_tasks.telemetry import configure_logging, get_logger


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_json_line_holds_event_fields_and_bound_context(stream) -> None:
    configure_logging(format="json", stream=stream)
    structlog.contextvars.bind_contextvars(job_id="j1")

    get_logger("here").info("job_settled", attempt=2)

    line = json.loads(stream.getvalue())
    assert (line["event"], line["job_id"], line["attempt"], line["level"], line["logger"]) == (
        "job_settled", "j1", 2, "info", "here",
    )  # fmt: skip
    assert line["timestamp"].endswith("Z")


def test_lines_of_libraries_take_the_same_form(stream) -> None:
    configure_logging(format="json", stream=stream)

    logging.getLogger("celery").warning("lost %s", "it", extra={"queue": "reports"})

    line = json.loads(stream.getvalue())
    assert (line["event"], line["queue"], line["logger"]) == ("lost it", "reports", "celery")


def test_below_the_level_nothing_is_written(stream) -> None:
    configure_logging(level="warning", stream=stream)

    get_logger("here").info("job_settled")
    logging.getLogger("celery").info("quiet")

    assert stream.getvalue() == ""


def test_configuring_twice_writes_each_line_once(stream) -> None:
    configure_logging(format="json", stream=stream)
    configure_logging(format="json", stream=stream)

    get_logger("here").info("job_settled")

    assert len(stream.getvalue().splitlines()) == 1


def test_exception_is_written_with_its_traceback(stream) -> None:
    configure_logging(format="json", stream=stream)

    try:
        raise ValueError("why")
    except ValueError:
        get_logger("here").exception("job_failed")

    line = json.loads(stream.getvalue())
    assert line["exception"][0]["exc_type"] == "ValueError"


def test_console_line_is_for_people(stream) -> None:
    configure_logging(stream=stream)

    get_logger("here").info("job_settled", job_id="j1")

    assert "job_settled" in stream.getvalue()
    assert "job_id=j1" in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_variables_of_a_failed_function_stay_out_of_the_log(stream, form) -> None:
    configure_logging(format=form, stream=stream)

    def fail(password: str) -> None:
        raise ValueError("refused")

    try:
        fail("hunter2")
    except ValueError:
        logging.getLogger("here").exception("it failed")

    assert "refused" in stream.getvalue()
    assert "hunter2" not in stream.getvalue().replace('fail("hunter2")', "")

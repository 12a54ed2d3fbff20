"""Requests that nobody thought of: Schemathesis reads our OpenAPI description and tries what it allows, and what not."""

import subprocess
import sys
from pathlib import Path

from support.web_server import running_web, web_env

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection"


def test_no_request_breaks_the_interface_or_gets_an_answer_it_does_not_describe(
    redis_server, programs, tmp_path
):
    uploads = tmp_path / "data" / "uploads"
    uploads.mkdir(parents=True)
    (uploads / "machine_temperature.csv").write_text("a,b\n1,2\n3,4\n")
    with running_web(programs, web_env(redis_server.url, tmp_path / "data")) as web:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "run",
                f"{web.address}/api/v1/openapi.json",
                "--exclude-path=/live",  # it never ends
                "--phases=examples,fuzzing",
                "--max-examples=12",
                "--seed=1",
                f"--checks={CHECKS}",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    assert done.returncode == 0, done.stdout + done.stderr

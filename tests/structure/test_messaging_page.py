"""README and the page of the message queues say what each backend says of itself."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

from pynomaly_tasks.messaging import BACKEND_NAMES
from pynomaly_tasks.settings.messaging import MessagingSettings

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_messaging_docs.py"


def test_tables_of_capabilities_are_the_backends_own() -> None:
    checked = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr


def test_setting_names_every_backend() -> None:
    named = typing.get_args(MessagingSettings.model_fields["backend"].annotation)

    assert named == (*BACKEND_NAMES, "custom")

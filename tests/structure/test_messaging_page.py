"""The page of the message queues says what each backend says of itself."""

from __future__ import annotations

import typing
from pathlib import Path

from pynomaly_tasks.messaging import BACKEND_NAMES, capability_rows, capability_table
from pynomaly_tasks.settings.messaging import MessagingSettings

PAGE = (Path(__file__).parents[2] / "docs" / "messaging.md").read_text("utf-8")


def test_table_of_capabilities_is_the_backends_own() -> None:
    head, *rows = ("| " + " | ".join(row) + " |" for row in capability_rows(capability_table()))

    assert "\n".join([head, "|" + "---|" * (len(BACKEND_NAMES) + 1), *rows]) in PAGE


def test_setting_names_every_backend() -> None:
    named = typing.get_args(MessagingSettings.model_fields["backend"].annotation)

    assert named == (*BACKEND_NAMES, "custom")

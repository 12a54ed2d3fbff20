"""A command that makes no sense is refused before anything is connected to."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pynomaly_tasks.cli import pynomaly


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "cancel"),
        ("jobs", "cancel", "--dry-run"),
        ("jobs", "cancel", "some-id", "--tag", "nightly"),
        ("jobs", "cancel", "--state", "succeeded"),
        ("jobs", "replay", "--state", "running"),
        ("jobs", "replay", "some-id", "-e", "contamination"),
        ("dead-letters", "discard"),
        ("dead-letters", "show", "one"),
        ("jobs", "frobnicate"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(pynomaly, list(arguments))

    assert done.exit_code == 2
    assert done.stdout == ""

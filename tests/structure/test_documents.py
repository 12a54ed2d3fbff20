"""What README and docs/ show is what there is: commands exist, links lead somewhere, settings are listed."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: What a reader has, or is told to install.
READERS_OWN = {"git", "cd", "cp", "export", "curl", "sudo", "apt-get", "docker", "cat", "ls", "kill", "echo"}


def _blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in BLOCK.findall(page.read_text("utf-8")) if language in languages]


COMMANDS = sorted(
    {
        command.strip().removeprefix("$ ")
        for page in PAGES
        for block in _blocks(page, "bash", "sh", "console")
        for line in re.sub(r"\\\n", " ", block).splitlines()
        for command in re.split(r"&&|\||;", line.split(" #")[0])
        if command.strip() and not command.strip().startswith("#")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_a_page_exists(command: str) -> None:
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_0-9]+=.*", word)]
    if not words:
        return
    program = words[0].removeprefix(".venv/bin/")
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets
    elif program == "pynomaly":
        _assert_subcommand(words[1:])
    elif program == "celery":
        assert importlib.util.find_spec(words[words.index("-A") + 1]) is not None
    elif program in {"python", "python3"}:
        assert (ROOT / words[1]).exists() or importlib.util.find_spec(
            words[words.index("-m") + 1]
        ) is not None
    elif program.startswith(("./", ".ci/", "scripts/")):
        assert (ROOT / program).exists()
    else:
        assert program in READERS_OWN, f"{command}: nothing is known of {program}"


def _assert_subcommand(words: list[str]) -> None:
    from pynomaly_tasks.cli import pynomaly

    group: click.Command = pynomaly
    context = click.Context(pynomaly)
    for word in words:
        if not isinstance(group, click.Group) or word.startswith("-"):
            break
        found = group.get_command(context, word)
        assert found is not None, f"pynomaly has no command {' '.join(words)}"
        group = found
    options = {name for parameter in group.params for name in parameter.opts}
    unknown = [w for w in words if w.startswith("--") and w.partition("=")[0] not in options | {"--help"}]
    assert unknown == []


def test_links_of_pages_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]

    assert broken == []


def test_settings_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_configuration_docs.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def test_make_lists_every_target() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert phony is not None
    assert sorted(re.findall(r"^  make (\S+)", listed, re.MULTILINE)) == sorted(phony[1].split())

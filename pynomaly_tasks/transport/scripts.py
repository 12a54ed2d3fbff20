"""The steps that Redis does at once: the Lua files beside this module, and how to run one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import redis

Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file."""

    source: str
    sha: str

    def command(
        self, keys: Sequence[str], args: Sequence[Argument], *, with_source: bool = False
    ) -> tuple[Argument, ...]:
        """The command that runs it; ``with_source`` also where the server has not seen it yet."""
        name, text = ("EVAL", self.source) if with_source else ("EVALSHA", self.sha)
        return (name, text, len(keys), *keys, *args)

    def run(self, client: redis.Redis, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run it on a client that adds no prefix to keys, and return its answer."""
        execute: Callable[..., Any] = client.execute_command
        try:
            return execute(*self.command(keys, args))
        except redis.exceptions.NoScriptError:
            return execute(*self.command(keys, args, with_source=True))


def _load(*names: str) -> Script:
    folder = files(__package__) / "lua"
    source = "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


RESERVE = _load("reserve")
PUBLISH = _load("publish")
SETTLE = _load("settle")
RENEW = _load("renew")
GIVE_BACK = _load("give_back", "give_back_tags")
GIVE_BACK_EXPIRED = _load("give_back", "give_back_expired")
BURY = _load("bury")
REPLAY_DEAD = _load("replay_dead")

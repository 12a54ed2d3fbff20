"""All channels by name, from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from pynomaly_tasks.senders.apprise_channel import AppriseChannel
from pynomaly_tasks.senders.log_channel import LogChannel

LOG = "log"  #: the name that is always there


class Channel(Protocol):
    """Where a notification goes."""

    def check(self) -> None:
        """Raise InvalidSettings when the channel can never work. Sends nothing."""

    def send(self, subject: str, body: str) -> None:
        """Deliver. Raises DeliveryFailed when trying later may help."""


@dataclass(frozen=True, slots=True)
class Channels:
    """Channels by name."""

    by_name: Mapping[str, Channel]

    def find(self, name: str) -> Channel | None:
        """The channel, or None when there is no such name. Raises InvalidSettings for a wrong URL."""
        channel = self.by_name.get(name)
        if channel is not None:
            channel.check()
        return channel

    def check(self) -> None:
        """Raise InvalidSettings naming the first channel whose URL cannot be used. Sends nothing."""
        for channel in self.by_name.values():
            channel.check()

    def names(self) -> tuple[str, ...]:
        """All names, sorted, ``log`` among them."""
        return tuple(sorted(self.by_name))


def build_channels(channels: Mapping[str, SecretStr], timeout_s: float) -> Channels:
    """The named Apprise URLs, and ``log`` unless the settings give that name another meaning.

    Cheap: a URL is read by `find`; `Channels.check` reads them all.
    """
    return Channels(
        {LOG: LogChannel()}
        | {name: AppriseChannel(name, url, timeout_s=timeout_s) for name, url in channels.items()}
    )

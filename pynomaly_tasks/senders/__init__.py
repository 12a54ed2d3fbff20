"""Where notifications go: Apprise channels by name, and the log."""

from pynomaly_tasks.senders.registry import Channels, build_channels

__all__ = ["Channels", "build_channels"]

"""The group ``dashboard``: events become frames in the live streams. Any number may run."""

from __future__ import annotations

from pynomaly_tasks.consumers.run import run_process

if __name__ == "__main__":
    run_process("dashboard")

"""The group ``alerts``: events that people want to be told of become notifications. Any number may run."""

from __future__ import annotations

from pynomaly_tasks.consumers.run import run_process

if __name__ == "__main__":
    run_process("alerts")

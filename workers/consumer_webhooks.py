"""The group ``webhooks``: events are posted to the receivers that the settings name. Any number may run."""

from __future__ import annotations

from pynomaly_tasks.consumers.run import run_process

if __name__ == "__main__":
    run_process("webhooks")

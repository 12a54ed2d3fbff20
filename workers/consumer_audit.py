"""The group ``audit``: what people did becomes the audit log. Any number may run."""

from __future__ import annotations

from pynomaly_tasks.consumers.run import run_process

if __name__ == "__main__":
    run_process("audit")

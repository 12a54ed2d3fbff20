"""What a job keeps of Celery's own options, so that each of its messages carries them."""

from __future__ import annotations

#: Keys of a job's envelope: options of `apply_async` that its messages hand to the worker.
ENVELOPE_KEYS = frozenset(
    {
        "group_id",
        "group_index",
        "chord",
        "chain",
        "link",
        "link_error",
        "reply_to",
        "shadow",
        "headers",
        "origin",
        "argsrepr",
        "kwargsrepr",
        "replaced_task_nesting",
        "ignore_result",
        "stamped_headers",
        "stamps",
    }
)

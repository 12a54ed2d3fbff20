"""What a job keeps of Celery's own options, so that each of its messages carries them."""

from __future__ import annotations

#: Keys of a job's envelope that Celery's message builder takes under the same name.
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
        "replaced_task_nesting",
        "ignore_result",
        "stamped_headers",
        "stamps",
    }
)

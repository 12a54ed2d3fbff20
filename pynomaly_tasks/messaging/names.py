"""What queues, subscribers, topics and headers may be called."""

from __future__ import annotations

import re

from pynomaly_tasks.errors import InvalidInput

MAX_NAME = 128
MAX_TOPIC = 255

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SEGMENT = re.compile(r"[^\s.*#\x00-\x1f\x7f]+")


def check_name(name: object, field: str, error: type[InvalidInput]) -> None:
    """Raise ``error`` unless ``name`` can be the name of a queue or a subscriber."""
    if not isinstance(name, str):
        raise error.of(field, f"must be text, not {type(name).__name__}")
    if not name:
        raise error.of(field, f"is empty; give it 1 to {MAX_NAME} characters")
    if len(name) > MAX_NAME:
        raise error.of(field, f"is {len(name)} characters long; at most {MAX_NAME} are allowed")
    if not _NAME.fullmatch(name):
        raise error.of(
            field,
            f"{name!r:.80} may hold only ASCII letters, digits and . _ - , and starts with a letter or a digit",
        )


def topic_segments(topic: object, field: str, error: type[InvalidInput]) -> tuple[str, ...]:
    """The topic's segments. Raises ``error`` for one that no message can have.

    A segment is any printable text without space, ``.``, ``*`` and ``#``; characters of regular
    expressions are plain text.
    """
    segments = _split(topic, field, error)
    for segment in segments:
        if not _SEGMENT.fullmatch(segment):
            raise error.of(
                field,
                f"the segment {segment!r:.60} of {topic!r:.80} holds a space, *, # or a control character",
            )
    return segments


def pattern_segments(pattern: object, field: str, error: type[InvalidInput]) -> tuple[str, ...]:
    """The pattern's segments: ``*`` is one, ``#`` zero or more. Raises ``error`` with the reason."""
    segments = _split(pattern, field, error)
    for segment in segments:
        if segment in {"*", "#"} or _SEGMENT.fullmatch(segment):
            continue
        if set(segment) <= {"*", "#"}:
            why = (
                f"{segment!r} is no wildcard; * is one segment and # is zero or more, each alone between dots"
            )
        elif "*" in segment or "#" in segment:
            why = f"a wildcard stands alone between dots, so {segment!r:.60} means nothing; write * or the whole segment"
        else:
            why = f"the segment {segment!r:.60} holds a space or a control character"
        raise error.of(field, f"{why} (in {pattern!r:.80})")
    return segments


def _split(topic: object, field: str, error: type[InvalidInput]) -> tuple[str, ...]:
    if not isinstance(topic, str):
        raise error.of(field, f"must be text, not {type(topic).__name__}")
    if not topic:
        raise error.of(field, f"is empty; give it 1 to {MAX_TOPIC} characters, with . between its segments")
    if len(topic) > MAX_TOPIC:
        raise error.of(field, f"is {len(topic)} characters long; at most {MAX_TOPIC} are allowed")
    segments = tuple(topic.split("."))
    if "" in segments:
        raise error.of(field, f"{topic!r:.80} has an empty segment: a dot at an end, or two in a row")
    return segments

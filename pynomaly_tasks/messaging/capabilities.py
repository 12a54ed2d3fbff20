"""What each backend can do, said before anybody relies on it.

``native``: the broker itself does it, in one step with what it belongs to and by the broker's clock.
``emulated``: done once, above the backends, from what the broker has; the backend's page says how.
``absent``: refused when the queue is made, or the message sent, with the backends that have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum

from pynomaly_tasks.errors import NotSupported


class Support(Enum):
    """How a backend comes to a capability."""

    NATIVE = "native"
    EMULATED = "emulated"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """One backend's answer to each question; a new backend starts from none."""

    ack: Support = Support.ABSENT  #: each message is settled by itself, and comes again if it was not
    groups: Support = Support.ABSENT  #: consumers of one queue share its messages
    priority: Support = Support.ABSENT  #: 0 to 255, higher first, in order within equals
    delay: Support = Support.ABSENT  #: a message that is not due is not handed out, and blocks nobody
    deduplication: Support = Support.ABSENT  #: the same content or key again within a window is not sent
    ttl: Support = Support.ABSENT  #: an expired message is never handed out, and counted
    dead_letters: Support = Support.ABSENT  #: kept with reason and bytes: list, show, redrive, discard
    order: Support = Support.ABSENT  #: first in, first out, within equal priority
    max_size: Support = Support.ABSENT  #: a full queue refuses, or drops its oldest into the dead letters
    confirmations: Support = Support.ABSENT  #: which subscribers acknowledged: broadcast and quorum
    replay: Support = Support.ABSENT  #: reading again what was acknowledged, by offset or time
    depth: Support = Support.ABSENT  #: how many wait, are held, and how old the oldest is
    purge: Support = Support.ABSENT  #: all that waits is removed at once
    tasks: Support = Support.ABSENT  #: where a task stands is kept: submit, cancel, depend on others, repeat
    persistence: Support = Support.ABSENT  #: messages outlive the process, and a restart of the broker

    def require(self, capability: str, field: str, backend: str, table: Mapping[str, Capabilities]) -> None:
        """Raise NotSupported, for the option ``field``, when the capability is absent."""
        if getattr(self, capability) is not Support.ABSENT:
            return
        able = [name for name, other in table.items() if getattr(other, capability) is not Support.ABSENT]
        raise NotSupported.of(
            field,
            f"the backend {backend} has no {capability}; "
            + (f"these have it: {', '.join(able)}" if able else "no backend of this version has it"),
        )


CAPABILITY_NAMES = tuple(field.name for field in fields(Capabilities))


def capability_rows(table: Mapping[str, Capabilities]) -> Iterable[tuple[str, ...]]:
    """The table for people: a head, then one row a capability with a word for each backend."""
    yield ("capability", *table)
    for name in CAPABILITY_NAMES:
        yield (name, *(getattr(capabilities, name).value for capabilities in table.values()))

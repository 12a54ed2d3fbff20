"""The catalog read: which queues there are, and who subscribed to what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.messaging.backend import Catalog
from pynomaly_tasks.messaging.options import QueueOptions
from pynomaly_tasks.messaging.topics import TopicTrie

#: Where messages that no subscriber matched are kept. No queue can have this name.
UNROUTED = "!unrouted"
#: What a queue's name is followed by where its dead letters lie.
_DEAD = "!dead"


def queue_record(queue: str) -> str:
    """Name of the record that holds a queue's options."""
    return f"queue/{queue}"


def dead_record(queue: str) -> str:
    """Name of the record that says where dead letters may lie; it outlives the queue."""
    return f"dead/{queue}"


def binding_record(queue: str, pattern: str) -> str:
    """Name of the record of one subscription."""
    return f"bind/{queue}/{pattern}"


def dead_channel(queue: str) -> str:
    """Where a queue's dead letters lie."""
    return queue if queue == UNROUTED else f"{queue}{_DEAD}"


def is_for_dead_letters(channel: str) -> bool:
    """Whether it is a `dead_channel`."""
    return channel == UNROUTED or channel.endswith(_DEAD)


def queue_of_dead(channel: str) -> str:
    """The queue whose `dead_channel` it is; empty for the messages that no subscriber matched."""
    return "" if channel == UNROUTED else channel.removesuffix(_DEAD)


@dataclass(frozen=True, slots=True)
class Topology:
    """One version of the catalog."""

    version: int
    queues: Mapping[str, QueueOptions]
    bindings: Mapping[tuple[str, str], int]  #: queue and pattern -> rank among the subscribers
    dead: frozenset[str]  #: queues that may have dead letters
    trie: TopicTrie[str]

    @classmethod
    def read(cls, catalog: Catalog) -> Topology:
        """From its records."""
        queues, bindings, dead, trie = {}, {}, set(), TopicTrie[str]()
        for record_name, record in catalog.records.items():
            kind, name, *rest = record_name.split("/", 2)
            if kind == "queue":
                queues[name] = QueueOptions.from_record(record)
            elif kind == "dead":
                dead.add(name)
            elif kind == "bind":
                bindings[name, rest[0]] = int(orjson.loads(record))
                trie.add(rest[0], name)
        return cls(catalog.version, queues, bindings, frozenset(dead), trie)

    def get_queue(self, queue: str) -> QueueOptions:
        """Its options. Raises NotFound."""
        if queue not in self.queues:
            raise NotFound(f"there is no queue {queue!r:.80}; create_queue makes it")
        return self.queues[queue]

    def matching(self, topic: str) -> list[str]:
        """Queues that a message of the topic goes to, in order of their names."""
        return sorted(queue for queue in self.trie.match(topic) if queue in self.queues)

    def rank(self, queue: str) -> int:
        """The highest rank among the queue's subscriptions."""
        return max((rank for (name, _), rank in self.bindings.items() if name == queue), default=0)

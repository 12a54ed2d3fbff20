"""Topic patterns with the meaning they have in AMQP: ``*`` is one segment, ``#`` zero or more."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pynomaly_tasks.errors import InvalidMessage, InvalidQueue
from pynomaly_tasks.messaging.names import pattern_segments, topic_segments

T = TypeVar("T", bound=Hashable)


@dataclass(slots=True)
class _Node(Generic[T]):
    is_hash: bool = False
    children: dict[str, _Node[T]] = field(default_factory=dict)
    subscribers: set[T] = field(default_factory=set)


class TopicTrie(Generic[T]):
    """Who subscribed to what. A subscriber is found once, however many of its patterns match.

    The work of `match` grows with the matching branches, not with the number of patterns.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: str, subscriber: T) -> None:
        """Raises InvalidQueue for a bad pattern, with the reason."""
        node = self._root
        for segment in pattern_segments(pattern, "pattern", InvalidQueue):
            node = node.children.setdefault(segment, _Node(is_hash=segment == "#"))
        node.subscribers.add(subscriber)

    def remove(self, pattern: str, subscriber: T) -> bool:
        """Whether it was there. Branches that lead nowhere go with it."""
        path, node = [], self._root
        for segment in pattern_segments(pattern, "pattern", InvalidQueue):
            path.append((node, segment))
            following = node.children.get(segment)
            if following is None:
                return False
            node = following
        if subscriber not in node.subscribers:
            return False
        node.subscribers.remove(subscriber)
        for parent, segment in reversed(path):
            child = parent.children[segment]
            if child.children or child.subscribers:
                break
            del parent.children[segment]
        return True

    def match(self, topic: str) -> set[T]:
        """Every subscriber with a pattern that the topic matches. Raises InvalidMessage for a bad topic."""
        # Nodes by identity, each once: `#.#.#` would else be reached in as many ways as there are
        # to cut the topic.
        reached = _with_empty_hashes([self._root])
        for segment in topic_segments(topic, "topic", InvalidMessage):
            following = []
            for node in reached.values():
                if node.is_hash:
                    following.append(node)
                for key in (segment, "*"):
                    if (child := node.children.get(key)) is not None:
                        following.append(child)
            reached = _with_empty_hashes(following)
        return set().union(*(node.subscribers for node in reached.values()))


def _with_empty_hashes(nodes: list[_Node[T]]) -> dict[int, _Node[T]]:
    """The nodes, and those behind a ``#`` that stands for nothing."""
    found: dict[int, _Node[T]] = {}
    for start in nodes:
        node: _Node[T] | None = start
        while node is not None:
            found[id(node)] = node
            node = node.children.get("#")
    return found

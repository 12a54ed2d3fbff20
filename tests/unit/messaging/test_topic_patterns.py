from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.errors import InvalidMessage, InvalidQueue
from pynomaly_tasks.messaging import TopicTrie

WORDS = st.sampled_from(["a", "b", "c"])
TOPICS = st.lists(WORDS, min_size=1, max_size=6)
PATTERNS = st.lists(WORDS | st.sampled_from(["*", "#"]), min_size=1, max_size=6)


def _matches(pattern: list[str], topic: list[str]) -> bool:
    """The definition, word for word."""
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return any(_matches(pattern[1:], topic[n:]) for n in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and _matches(pattern[1:], topic[1:])


@given(st.lists(PATTERNS, max_size=8), TOPICS)
def test_trie_finds_what_the_definition_says(patterns: list[list[str]], topic: list[str]) -> None:
    trie: TopicTrie[int] = TopicTrie()
    for number, pattern in enumerate(patterns):
        trie.add(".".join(pattern), number)

    assert trie.match(".".join(topic)) == {
        n for n, pattern in enumerate(patterns) if _matches(pattern, topic)
    }


@given(st.lists(st.tuples(PATTERNS, st.integers(0, 2)), max_size=8), st.data(), TOPICS)
def test_removed_pattern_matches_nothing_and_leaves_the_others(pairs, data, topic: list[str]) -> None:
    trie: TopicTrie[int] = TopicTrie()
    kept = {(".".join(pattern), subscriber) for pattern, subscriber in pairs}
    for pattern, subscriber in kept:
        trie.add(pattern, subscriber)
    for pattern, subscriber in data.draw(
        st.lists(st.sampled_from(sorted(kept)), unique=True) if kept else st.just([])
    ):
        assert trie.remove(pattern, subscriber)
        assert not trie.remove(pattern, subscriber)
        kept.discard((pattern, subscriber))

    expected = {subscriber for pattern, subscriber in kept if _matches(pattern.split("."), topic)}
    assert trie.match(".".join(topic)) == expected


def test_many_hashes_cost_no_more_than_few() -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(".".join(["#", "a"] * 30), "s")
    started = time.perf_counter()

    assert trie.match(".".join("a" * 100)) == {"s"}
    assert time.perf_counter() - started < 0.2


@pytest.mark.parametrize("segment", ["a+", "(b)", "[c]", "^d$", "e?", "f|g", "h\\d", "\u00fc", "{i}"])
def test_characters_of_regular_expressions_are_plain_text(segment: str) -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(f"x.{segment}", "s")

    assert trie.match(f"x.{segment}") == {"s"}
    assert trie.match("x.aa") == trie.match("x.b") == set()


def test_bad_pattern_and_bad_topic_are_refused_with_the_reason() -> None:
    trie: TopicTrie[str] = TopicTrie()

    with pytest.raises(InvalidQueue, match=re.escape("pattern: '**' is no wildcard; * is one segment")):
        trie.add("a.**", "s")
    with pytest.raises(InvalidMessage, match="topic: the segment"):
        trie.match("a.#")


def test_ten_thousand_patterns_match_in_well_under_a_millisecond() -> None:
    chance = random.Random(7)
    trie: TopicTrie[int] = TopicTrie()
    words = [f"w{n}" for n in range(50)]
    for number in range(10_000):
        segments = [chance.choice([*words, "*", "#"]) for _ in range(chance.randint(1, 5))]
        trie.add(".".join(segments), number)
    topics = [".".join(chance.choices(words, k=4)) for _ in range(300)]

    def seconds() -> float:
        started = time.perf_counter()
        for topic in topics:
            trie.match(topic)
        return (time.perf_counter() - started) / len(topics)

    assert min(seconds() for _ in range(5)) < 0.001

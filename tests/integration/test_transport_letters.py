"""Dead letters of the transport on a real Redis: listed, shown, replayed once, discarded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from kombu import Connection

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.transport.letters import Letters
from support.command_line import refused, run
from support.malformed import good_message
from support.transport import OURS, SEP


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client(5) as client:
        client.flushdb()
        yield client


@pytest.fixture
def letters(broker: redis.Redis) -> Letters:
    return Letters(broker)


def _deliver(server: RedisServer, queue: str, *, prefix: str = "") -> list[bytes]:
    """Everything in the queue as a consumer gets it; what it cannot be given becomes a dead letter."""
    bodies = []
    options = {"global_keyprefix": prefix, "accept_content_types": ["application/json"]}
    with Connection(f"{server.url}/5", transport=OURS, transport_options=options) as connection:
        while message := connection.default_channel.basic_get(queue, no_ack=True):
            bodies.append(message.body)
    return bodies


def test_letters_are_listed_by_queue_and_newest_first(
    redis_server: RedisServer, broker: redis.Redis, letters: Letters
) -> None:
    broker.rpush("b", b"\xff second", b"\xff first")
    broker.rpush("a", b"[]")
    for queue in ("b", "a"):
        assert _deliver(redis_server, queue) == []

    listed = list(letters.list())

    assert letters.queues() == ["a", "b"]
    assert [(each.queue, each.raw) for each in listed] == [
        ("a", b"[]"),
        ("b", b"\xff second"),
        ("b", b"\xff first"),
    ]
    assert "must be a JSON object" in listed[0].reason
    assert all(each.at is not None for each in listed)
    assert len({each.id for each in listed}) == 3
    assert letters.get(listed[2].id) == listed[2]
    assert letters.count("a", "b", "c") == 3
    with pytest.raises(NotFound, match="no dead letter nothing"):
        letters.get("nothing")


def test_of_many_who_replay_a_letter_at_once_one_does(
    redis_server: RedisServer, broker: redis.Redis, letters: Letters
) -> None:
    broker.rpush("q", b"bad")
    _deliver(redis_server, "q")
    [letter] = letters.list("q")

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(lambda _: letters.replay(letter), range(32)))

    assert sorted(done) == [False] * 31 + [True]
    assert broker.lrange("q", 0, -1) == [b"bad"]
    assert broker.llen(f"q{SEP}wake") == 1
    assert list(letters.list()) == []
    assert not letters.discard(letter)


def test_mended_message_is_delivered(
    redis_server: RedisServer, broker: redis.Redis, letters: Letters
) -> None:
    good, _, body = good_message(queue="q")
    broker.rpush("q", good[:-1])
    assert _deliver(redis_server, "q") == []
    [letter] = letters.list("q")

    assert letters.replay(letter, good)

    [delivered] = _deliver(redis_server, "q")
    assert json.loads(delivered) == body
    assert list(letters.list()) == []


def test_prefix_that_looks_like_a_pattern_finds_its_own_letters_only(
    redis_server: RedisServer, broker: redis.Redis
) -> None:
    for prefix in ("a*[b]:", "axb:"):
        broker.rpush(f"{prefix}q", prefix.encode())
        _deliver(redis_server, "q", prefix=prefix)

    letters = Letters(broker, prefix="a*[b]:")
    [letter] = letters.list()
    letters.replay(letter)

    assert (letter.queue, letter.raw) == ("q", b"a*[b]:")
    assert broker.lrange("a*[b]:q", 0, -1) == [b"a*[b]:"]
    assert [each.raw for each in Letters(broker, prefix="axb:").list()] == [b"axb:"]


def test_entry_of_somebody_else_is_shown_and_can_be_discarded(broker: redis.Redis, letters: Letters) -> None:
    broker.lpush(f"q{SEP}dead", b"\xff", b'{"raw": "%%%"}')

    listed = list(letters.list("q"))

    assert [each.raw for each in listed] == [b'{"raw": "%%%"}', b"\xff"]
    assert all(each.at is None and "somebody else" in each.reason for each in listed)
    assert [letters.discard(each) for each in listed] == [True, True]
    assert not broker.exists(f"q{SEP}dead")


def test_command_lists_shows_replays_and_discards(
    redis_server: RedisServer, broker: redis.Redis, tmp_path: Path
) -> None:
    good, _, _ = good_message(queue="q")
    mended = tmp_path / "mended.json"
    mended.write_bytes(good)
    broker.rpush("q", b"\xff", b"two", b"one")
    _deliver(redis_server, "q")
    command = ("broker-letters", "--broker", f"{redis_server.url}/5")

    header, *rows = run(*command, "list", env={}).stdout.splitlines()
    ids = [row.split("\t")[0] for row in rows]
    shown = json.loads(run(*command, "show", ids[0], env={}).stdout)
    replayed = run(*command, "replay", ids[1], "--message", str(mended), env={}).stdout
    again = refused(*command, "replay", ids[1], env={})
    discarded = run(*command, "discard", "--all", "--queue", "q", env={}).stdout

    assert header.split("\t") == ["id", "at", "queue", "bytes", "reason"]
    assert [row.split("\t")[2:4] for row in rows] == [["q", "1"], ["q", "3"], ["q", "3"]]
    assert (shown["message_base64"], shown["queue"]) == ("/w==", "q")
    assert replayed == f"{ids[1]} replayed\n"
    assert broker.lrange("q", 0, -1) == [good]
    assert "replayed or discarded" in again
    assert discarded == f"{ids[0]} discarded\n{ids[2]} discarded\n"
    assert not broker.exists(f"q{SEP}dead")


def test_command_says_what_is_missing(redis_server: RedisServer) -> None:
    command = ("broker-letters", "--broker", f"{redis_server.url}/5")

    assert "--all" in run(*command, "discard", env={}).stderr
    assert "--all" in run(*command, "replay", "--all", env={}).stderr
    assert refused("broker-letters", "--broker", "redis://127.0.0.1:1/0", "list", env={}).startswith(
        "the broker gave no answer"
    )

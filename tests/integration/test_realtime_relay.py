"""Frames of events in the live streams of a real Redis."""

import asyncio
from collections.abc import Iterator

import pytest
import redis

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.realtime.relay import APPLIED_KEY, Frame, FrameRelay
from pynomaly_tasks.realtime.streams import ACTIVITY_STREAM, DASHBOARD_STREAM, HEALTH_STREAM


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(f"{redis_server.url}/3", decode_responses=True) as client:
        client.flushdb()
        yield client


def frames(*keys: str, stream: str = DASHBOARD_STREAM) -> list[Frame]:
    return [Frame(key=key, stream=stream, data=key.encode()) for key in keys]


def append(url: str, *batches: list[Frame], **options: int) -> list[int]:
    async def scenario() -> list[int]:
        relay = FrameRelay(f"{url}/3", **options)
        try:
            return [await relay.append(batch) for batch in batches]
        finally:
            await relay.close()

    return asyncio.run(scenario())


def data_of(client: redis.Redis, stream: str = DASHBOARD_STREAM) -> list[str]:
    return [fields["data"] for _, fields in client.xrange(stream)]


def test_frames_go_to_their_streams_in_order(redis_server: RedisServer, client: redis.Redis):
    mixed = [*frames("a", "b"), *frames("c", stream=HEALTH_STREAM), *frames("d")]

    assert append(redis_server.url, mixed) == [4]

    assert data_of(client) == ["a", "b", "d"]
    assert data_of(client, HEALTH_STREAM) == ["c"]


def test_event_that_comes_again_adds_nothing_whoever_sends_it(redis_server: RedisServer, client: redis.Redis):
    assert append(redis_server.url, frames("a", "b"), frames("b", "c")) == [2, 1]
    assert append(redis_server.url, frames("a", "b", "c"), frames("d", "a")) == [0, 1]

    assert data_of(client) == ["a", "b", "c", "d"]


def test_stream_that_cannot_be_written_leaves_no_mark(redis_server: RedisServer, client: redis.Redis):
    client.set(ACTIVITY_STREAM, "no stream")

    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        append(redis_server.url, frames("a", stream=ACTIVITY_STREAM))

    assert client.zcard(APPLIED_KEY) == 0
    client.delete(ACTIVITY_STREAM)
    assert append(redis_server.url, frames("a", stream=ACTIVITY_STREAM)) == [1]


def test_streams_are_capped_and_marks_expire(redis_server: RedisServer, client: redis.Redis):
    append(redis_server.url, frames(*map(str, range(2_000))), stream_length=100)

    assert 100 <= client.xlen(DASHBOARD_STREAM) <= 300
    assert 0 < client.ttl(APPLIED_KEY) <= 3_600


def test_redis_that_is_away_is_told_as_such(redis_server: RedisServer):
    with pytest.raises(BrokerUnavailable):
        append("redis://127.0.0.1:1", frames("a"))

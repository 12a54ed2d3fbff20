import asyncio
from contextlib import asynccontextmanager

import orjson
import pytest

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.realtime.filters import Filter
from pynomaly_tasks.realtime.hub import StreamHub, TooManyClients
from pynomaly_tasks.realtime.position import START
from pynomaly_tasks.realtime.publisher import StreamPublisher
from pynomaly_tasks.realtime.streams import (
    ACTIVITY_STREAM,
    DASHBOARD,
    DASHBOARD_STREAM,
    HEALTH_STREAM,
    STREAMS,
    EntryId,
)
from pynomaly_tasks.realtime.update import Away, Back, Gap, Skipped, Update

TIMEOUT_S = 15.0


@pytest.fixture
def publisher(own_redis):
    publisher = StreamPublisher(f"{own_redis.url}/3")
    yield publisher
    publisher.close()


@asynccontextmanager
async def running_hub(url, **options):
    hub = StreamHub(f"{url}/3", **options)
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


class Client:
    """One that watches, from when `watching` returns."""

    def __init__(self, hub, *filters, after=None, write=None):
        self._hub = hub
        self._filters = [Filter.of(one) for one in filters] or [Filter()]
        self._after = after
        self._entered = hub.watching(encoded, write)
        self._taken = []

    async def watching(self):
        self.watcher = self._entered.__enter__()
        if self._after is None:
            self._hub.add_filters(self.watcher, self._filters)
        else:
            await self._hub.catch_up(self._after)
            self._hub.resume(self.watcher, self._filters, self._after)
        return self

    async def take(self):
        while not self._taken:
            items = await self.watcher.take(TIMEOUT_S)
            assert items != [], "nothing came"
            if items is None:
                raise StopAsyncIteration
            self._taken += items
        return self._taken.pop(0)

    async def take_attempts(self, n):
        return [orjson.loads((await self.take()).data)["attempt"] for _ in range(n)]

    async def close(self):
        self._entered.__exit__(None, None, None)


def encoded(update):
    return update.data + b"\n"


async def found(hub):
    """Wait until the reader is at its place; what was published before is past."""
    await hub.catch_up(START)
    assert hub.position is not None


def publish(publisher, job_id, attempt):
    publisher.publish({"type": "job", "job_id": job_id, "attempt": attempt})


def test_every_client_gets_every_update_through_one_reader(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await found(hub)
            clients = [await Client(hub).watching() for _ in range(50)]
            for number in range(20):
                publish(publisher, f"job-{number % 3}", number)
            taken = [await client.take_attempts(20) for client in clients]
            with own_redis.client() as redis:
                readers = [one for one in redis.client_list() if one["cmd"].startswith("xread")]
            return taken, len(readers), [await client.close() for client in clients], hub.n_clients

    taken, n_readers, _, n_left = asyncio.run(scenario())

    assert taken == [list(range(20))] * 50
    assert n_readers == 1
    assert n_left == 0


def test_a_client_of_one_job_gets_that_job_only(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await found(hub)
            client = await Client(hub, {"job_id": ["mine"]}).watching()
            for number in range(10):
                publish(publisher, "mine" if number % 2 else "other", number)
            taken = await client.take_attempts(5)
            await client.close()
            return taken

    assert asyncio.run(scenario()) == [1, 3, 5, 7, 9]


def test_a_client_that_comes_back_gets_what_it_missed_once_and_in_order(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await found(hub)
            client = await Client(hub).watching()
            publish(publisher, "a", 1)
            last_seen = (await client.take()).position
            await client.close()
            for number in range(2, 6):
                publish(publisher, "a", number)
            again = await Client(hub, {"job_id": ["a"]}, after=last_seen).watching()
            missed = await again.take_attempts(4)
            publish(publisher, "a", 6)
            live = await again.take_attempts(1)
            await again.close()
            return missed + live

    assert asyncio.run(scenario()) == [2, 3, 4, 5, 6]


def test_a_client_is_told_when_the_stream_no_longer_holds_what_it_missed(own_redis, publisher):
    async def scenario():
        for number in range(3):
            publish(publisher, "a", number)
        with own_redis.client(3) as redis:
            first = EntryId.parse(redis.xrange(DASHBOARD_STREAM)[0][0].decode())
            redis.xtrim(DASHBOARD_STREAM, maxlen=1, approximate=False)
        async with running_hub(own_redis.url) as hub:
            client = await Client(hub, after=START.moved(DASHBOARD, first)).watching()
            gap = await client.take()
            publish(publisher, "a", 3)
            newer = await client.take_attempts(1)
            await client.close()
            again = await Client(hub, after=gap.position).watching()
            since_gap = await again.take_attempts(1)
            await again.close()
            return gap, newer, since_gap

    gap, newer, since_gap = asyncio.run(scenario())

    assert "no longer holds" in gap.reason
    assert gap.streams == ("dashboard",)
    assert newer == since_gap == [3]  # what was still held is older than the present state


def test_a_gap_in_one_stream_takes_nothing_from_the_others(own_redis, publisher):
    async def scenario():
        for number in range(3):
            publish(publisher, "a", number)
            publisher.publish({"number": number}, stream=HEALTH_STREAM)
        with own_redis.client(3) as redis:
            dashboard, health = (
                EntryId.parse(redis.xrange(stream)[0][0].decode())
                for stream in (DASHBOARD_STREAM, HEALTH_STREAM)
            )
            redis.xtrim(HEALTH_STREAM, maxlen=1, approximate=False)
        async with running_hub(own_redis.url) as hub:
            after = START.moved(DASHBOARD, dashboard).moved(STREAMS.index(HEALTH_STREAM), health)
            client = await Client(hub, after=after).watching()
            taken = [await client.take() for _ in range(4)]
            await client.close()
            return taken

    gap, *updates = asyncio.run(scenario())

    assert gap.streams == ("health",)
    assert [orjson.loads(update.data).get("attempt") for update in updates] == [1, 2, None]
    assert orjson.loads(updates[-1].data) == {"number": 2}


def test_a_client_from_before_a_flush_is_told_that_the_stream_is_a_new_one(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            publish(publisher, "a", 1)
            client = await Client(hub, after=START.moved(DASHBOARD, EntryId(2**60, 0))).watching()
            gap = await client.take()
            await client.close()
            return gap

    assert "anew" in asyncio.run(scenario()).reason


def test_a_client_that_comes_from_another_process_gets_each_update_once(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as one, running_hub(own_redis.url) as other:
            await found(other)
            for number in range(4):
                publish(publisher, "a", number)
                publisher.publish({"attempt": -number}, stream=ACTIVITY_STREAM)
            client = await Client(one, after=START).watching()
            taken = [await client.take() for _ in range(5)]
            await client.close()
            again = await Client(other, after=taken[-1].position).watching()
            taken += [await again.take() for _ in range(3)]
            publish(publisher, "a", 4)
            taken.append(await again.take())
            await again.close()
            return [(update.stream, orjson.loads(update.data)["attempt"]) for update in taken]

    taken = asyncio.run(scenario())

    of_jobs = [attempt for stream, attempt in taken if stream == DASHBOARD]
    of_activity = [attempt for stream, attempt in taken if stream != DASHBOARD]
    assert of_jobs == [0, 1, 2, 3, 4]
    assert of_activity == [0, -1, -2, -3]


def test_a_slow_client_gets_the_newest_state_of_each_job_while_the_others_get_all(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url, max_waiting=10) as hub:
            await found(hub)
            slow = await Client(hub).watching()
            quick = await Client(hub).watching()
            taken = []
            for number in range(30):
                publish(publisher, f"job-{number % 3}", number)
                taken += await quick.take_attempts(1)
            kept = [await slow.take() for _ in range(slow.watcher.n_waiting + 1)]
            await quick.close()
            await slow.close()
            return taken, kept

    taken, (skipped, *kept) = asyncio.run(scenario())

    newest = {update.keys["job_id"][0]: orjson.loads(update.data)["attempt"] for update in kept}
    assert taken == list(range(30))
    assert isinstance(skipped, Skipped)
    assert skipped.n_updates + len(kept) == 30
    assert newest == {"job-0": 27, "job-1": 28, "job-2": 29}
    assert [update.number for update in kept] == sorted(update.number for update in kept)


def test_a_slow_client_of_too_many_jobs_is_told_and_let_go_while_the_others_go_on(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url, max_waiting=10) as hub:
            await found(hub)
            slow = await Client(hub).watching()
            quick = await Client(hub).watching()
            taken = []
            for number in range(30):
                publish(publisher, f"job-{number}", number)
                taken += await quick.take_attempts(1)
            gap = await slow.take()
            with pytest.raises(StopAsyncIteration):
                await slow.take()
            await quick.close()
            return taken, gap, slow.watcher.was_too_slow

    taken, gap, was_too_slow = asyncio.run(scenario())

    assert taken == list(range(30))
    assert "too slowly" in gap.reason
    assert gap.position is None  # it comes back where it left off
    assert was_too_slow


def test_a_socket_that_takes_all_is_written_at_once_and_one_that_is_full_later(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await found(hub)
            written, takes = [], [True]

            def write(data):
                written.append(data) if takes[0] else None
                return takes[0]

            client = await Client(hub, write=write).watching()
            other = await Client(hub).watching()
            publish(publisher, "a", 1)
            await other.take_attempts(1)
            takes[0] = False
            publish(publisher, "a", 2)
            await other.take_attempts(1)
            takes[0] = True
            publish(publisher, "a", 3)  # behind one that waits: it must not overtake it
            await other.take_attempts(1)
            waited = await client.take_attempts(2)
            await client.watcher.take(0.001)
            publish(publisher, "a", 4)
            await other.take_attempts(1)
            return [orjson.loads(data)["attempt"] for data in written], waited

    assert asyncio.run(scenario()) == ([1, 4], [2, 3])


def test_updates_go_on_by_themselves_after_redis_was_restarted(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await found(hub)
            client = await Client(hub).watching()
            publish(publisher, "a", 1)
            before = await client.take_attempts(1)
            await asyncio.to_thread(own_redis.stop)
            away = await client.take()
            await asyncio.to_thread(own_redis.start)
            back = await client.take()
            own = StreamPublisher(f"{own_redis.url}/3")
            publish(own, "a", 2)
            own.close()
            after = await client.take_attempts(1)
            await client.close()
            return before + after, away, back

    attempts, away, back = asyncio.run(scenario())

    assert attempts == [1, 2]
    assert isinstance(away, Away)
    assert isinstance(back, Back)


def test_clients_are_told_of_a_gap_when_redis_comes_back_empty(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await found(hub)
            client = await Client(hub).watching()
            publish(publisher, "a", 1)
            seen = (await client.take()).position
            await asyncio.to_thread(own_redis.restart, empty=True)
            notices = [await client.take() for _ in range(3)]
            own = StreamPublisher(f"{own_redis.url}/3")
            publish(own, "a", 2)
            own.close()
            update = await client.take()
            await client.close()
            again = await Client(hub, after=update.position).watching()
            early = await Client(hub, after=seen.moved(DASHBOARD, EntryId(1, 0))).watching()
            gap_of_early = await early.take()
            await early.close()
            await again.close()
            return notices, update, again.watcher.n_waiting, gap_of_early

    (away, back, gap), update, n_owed, gap_of_early = asyncio.run(scenario())

    assert [type(away), type(back), type(gap)] == [Away, Back, Gap]
    assert isinstance(gap_of_early, Gap)
    assert isinstance(update, Update)
    assert orjson.loads(update.data)["attempt"] == 2
    assert n_owed == 0


def test_a_client_that_comes_while_redis_is_away_gets_what_it_missed_once_it_is_back(own_redis, publisher):
    async def scenario():
        for number in range(3):
            publish(publisher, "a", number)
        with own_redis.client(3) as redis:
            first = EntryId.parse(redis.xrange(DASHBOARD_STREAM)[0][0].decode())
        await asyncio.to_thread(own_redis.stop)
        async with running_hub(own_redis.url) as hub:
            await hub.catch_up(START)
            client = await Client(hub, after=START.moved(DASHBOARD, first)).watching()
            away = await client.take()
            await asyncio.to_thread(own_redis.start)
            taken = await client.take_attempts(2)
            back = await client.take()
            await client.close()
            return away, taken, back

    away, taken, back = asyncio.run(scenario())

    assert isinstance(away, Away)
    assert taken == [1, 2]
    assert isinstance(back, Back)


def test_a_hub_starts_while_redis_is_down_and_says_so():
    async def scenario():
        async with running_hub(f"redis://127.0.0.1:{find_free_port()}") as hub:
            return await hub.is_reachable()

    assert asyncio.run(scenario()) is False


def test_stopping_the_hub_ends_every_client(own_redis):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            client = await Client(hub).watching()
            await hub.stop()
            with pytest.raises(StopAsyncIteration):
                await client.take()
            await client.close()
            return hub.n_clients

    assert asyncio.run(scenario()) == 0


def test_one_client_too_many_is_refused(own_redis):
    async def scenario():
        async with running_hub(own_redis.url, max_clients=1) as hub:
            client = await Client(hub).watching()
            with pytest.raises(TooManyClients):
                await Client(hub).watching()
            await client.close()
            return await (await Client(hub).watching()).close()

    asyncio.run(scenario())


def test_an_entry_that_is_not_ours_does_not_stop_the_reader(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await found(hub)
            client = await Client(hub).watching()
            with own_redis.client(3) as redis:
                redis.xadd(DASHBOARD_STREAM, {"data": b"\xff{"})
                redis.xadd(DASHBOARD_STREAM, {"other": b"x"})
                redis.xadd(DASHBOARD_STREAM, {"data": b'["a list"]'})
            publish(publisher, "a", 1)
            taken = [(await client.take()).data for _ in range(4)]
            await client.close()
            return taken

    assert asyncio.run(scenario())[:3] == [b"null", b"null", b'["a list"]']


def test_a_burst_reaches_a_client_that_keeps_up_without_a_gap(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await found(hub)
            client = await Client(hub).watching()
            with own_redis.client(3) as redis, redis.pipeline() as pipeline:
                for number in range(5_000):
                    pipeline.xadd(DASHBOARD_STREAM, {"data": orjson.dumps({"attempt": number})})
                taking = asyncio.create_task(client.take_attempts(5_000))
                await asyncio.to_thread(pipeline.execute)
            taken = await taking
            await client.close()
            return taken

    assert asyncio.run(scenario()) == list(range(5_000))

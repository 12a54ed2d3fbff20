import asyncio
from contextlib import asynccontextmanager

import orjson
import pytest

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.realtime.publisher import StreamPublisher
from pynomaly_tasks.realtime.reader import Gap, StreamHub, TooManyClients, Update
from pynomaly_tasks.realtime.streams import DASHBOARD_STREAM, EntryId

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
    """One that watches; it is registered when `watching` returns."""

    def __init__(self, hub, **options):
        self._updates = hub.updates(**options)
        self._next = None

    async def watching(self):
        self._next = asyncio.ensure_future(anext(self._updates))
        await asyncio.sleep(0)
        return self

    async def take(self):
        taken = self._next or asyncio.ensure_future(anext(self._updates))
        self._next = None
        return await asyncio.wait_for(taken, TIMEOUT_S)

    async def take_attempts(self, n):
        return [orjson.loads((await self.take()).data)["attempt"] for _ in range(n)]

    async def close(self):
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._updates.aclose()


async def first_read(hub, publisher):
    """Wait until the reader is at its place; what was published before is past."""
    client = await Client(hub).watching()
    publish(publisher, "probe", 0)
    found = None
    while found is None:
        try:
            found = await asyncio.wait_for(asyncio.shield(client._next), 0.2)
        except TimeoutError:
            publish(publisher, "probe", 0)
    await client.close()


def publish(publisher, job_id, attempt):
    publisher.publish({"type": "job", "job_id": job_id, "attempt": attempt})


def test_every_client_gets_every_update_through_one_reader(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await first_read(hub, publisher)
            clients = [await Client(hub).watching() for _ in range(50)]
            for number in range(20):
                publish(publisher, f"job-{number % 3}", number)
            taken = [await client.take_attempts(20) for client in clients]
            with own_redis.client() as redis:
                blocked = [one for one in redis.client_list() if "b" in one["flags"]]
            return taken, len(blocked), [await client.close() for client in clients], hub.n_clients

    taken, n_blocked, _, n_left = asyncio.run(scenario())

    assert taken == [list(range(20))] * 50
    assert n_blocked == 1
    assert n_left == 0


def test_a_client_of_one_job_gets_that_job_only(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await first_read(hub, publisher)
            client = await Client(hub, job_id="mine").watching()
            for number in range(10):
                publish(publisher, "mine" if number % 2 else "other", number)
            taken = await client.take_attempts(5)
            await client.close()
            return taken

    assert asyncio.run(scenario()) == [1, 3, 5, 7, 9]


def test_a_client_that_comes_back_gets_what_it_missed_once_and_in_order(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await first_read(hub, publisher)
            client = await Client(hub).watching()
            publish(publisher, "a", 1)
            last_seen = (await client.take()).id
            await client.close()
            for number in range(2, 6):
                publish(publisher, "a", number)
            again = await Client(hub, after=last_seen, job_id="a").watching()
            missed = await again.take_attempts(4)
            publish(publisher, "a", 6)
            live = await again.take_attempts(1)
            await again.close()
            return missed + live

    assert asyncio.run(scenario()) == [2, 3, 4, 5, 6]


def test_a_client_is_told_when_the_stream_no_longer_holds_what_it_missed(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            for number in range(3):
                publish(publisher, "a", number)
            with own_redis.client(3) as redis:
                first = EntryId.parse(redis.xrange(DASHBOARD_STREAM)[0][0].decode())
                redis.xtrim(DASHBOARD_STREAM, maxlen=1, approximate=False)
            client = await Client(hub, after=first).watching()
            taken = [await client.take(), await client.take()]
            await client.close()
            return taken

    gap, newest = asyncio.run(scenario())

    assert isinstance(gap, Gap)
    assert "no longer holds" in gap.reason
    assert orjson.loads(newest.data)["attempt"] == 2


def test_a_client_from_before_a_flush_is_told_that_the_stream_is_a_new_one(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            publish(publisher, "a", 1)
            client = await Client(hub, after=EntryId(2**60, 0)).watching()
            gap = await client.take()
            await client.close()
            return gap

    assert "anew" in asyncio.run(scenario()).reason


def test_a_slow_client_is_told_of_its_gap_and_dropped_while_the_others_go_on(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url, max_waiting=10) as hub:
            await first_read(hub, publisher)
            slow = await Client(hub).watching()
            quick = await Client(hub).watching()
            taken = []
            for number in range(30):
                publish(publisher, "a", number)
                taken += await quick.take_attempts(1)
            await slow.take()  # it had this one before it fell behind
            gap = await slow.take()
            with pytest.raises(StopAsyncIteration):
                await slow.take()
            await quick.close()
            return taken, gap

    taken, gap = asyncio.run(scenario())

    assert taken == list(range(30))
    assert "too slowly" in gap.reason


def test_updates_go_on_by_themselves_after_redis_was_restarted(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await first_read(hub, publisher)
            client = await Client(hub).watching()
            publish(publisher, "a", 1)
            before = await client.take_attempts(1)
            await asyncio.to_thread(own_redis.stop)
            await asyncio.to_thread(own_redis.start)
            own = StreamPublisher(f"{own_redis.url}/3")
            publish(own, "a", 2)
            own.close()
            after = await client.take_attempts(1)
            await client.close()
            return before + after

    assert asyncio.run(scenario()) == [1, 2]


def test_clients_are_told_of_a_gap_when_redis_comes_back_empty(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await first_read(hub, publisher)
            client = await Client(hub).watching()
            await asyncio.to_thread(own_redis.restart, empty=True)
            gap = await client.take()
            own = StreamPublisher(f"{own_redis.url}/3")
            publish(own, "a", 2)
            own.close()
            update = await client.take()
            await client.close()
            return gap, update

    gap, update = asyncio.run(scenario())

    assert isinstance(gap, Gap)
    assert isinstance(update, Update)
    assert orjson.loads(update.data)["attempt"] == 2


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
            return hub.n_clients

    assert asyncio.run(scenario()) == 0


def test_one_client_too_many_is_refused(own_redis):
    async def scenario():
        async with running_hub(own_redis.url, max_clients=1) as hub:
            client = await Client(hub).watching()
            with pytest.raises(TooManyClients):
                await Client(hub).take()
            await client.close()
            return await (await Client(hub).watching()).close()

    asyncio.run(scenario())


def test_an_entry_that_is_not_ours_does_not_stop_the_reader(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await first_read(hub, publisher)
            client = await Client(hub).watching()
            with own_redis.client(3) as redis:
                redis.xadd(DASHBOARD_STREAM, {"data": b"\xff{"})
                redis.xadd(DASHBOARD_STREAM, {"other": b"x"})
                redis.xadd(DASHBOARD_STREAM, {"data": b'["a list"]'})
            publish(publisher, "a", 1)
            taken = [(await client.take()).data for _ in range(4)]
            await client.close()
            return taken

    assert asyncio.run(scenario())[:3] == ["null", "null", '["a list"]']


def test_a_burst_reaches_a_client_that_keeps_up_without_a_gap(own_redis, publisher):
    async def scenario():
        async with running_hub(own_redis.url) as hub:
            await first_read(hub, publisher)
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

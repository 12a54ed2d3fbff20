"""One reading of the store serves all who asked before it began, and nobody who asked after."""

import asyncio
import threading
from types import SimpleNamespace

import orjson

from pynomaly_tasks.errors import StoreUnavailable
from pynomaly_tasks.realtime.filters import Filter
from pynomaly_tasks.web.snapshots import Snapshots

ALL = Filter()


class SlowStore:
    """Counts how often it is read; each reading waits until it may go on."""

    def __init__(self):
        self.n_reads, self.may_go_on, self.is_down = 0, threading.Event(), False
        self.reading = threading.Event()

    def list_jobs(self, **_options):
        self.n_reads += 1
        self.reading.set()
        assert self.may_go_on.wait(10.0)
        if self.is_down:
            raise StoreUnavailable("it is down")
        return []


def test_many_who_ask_at_once_share_one_reading():
    async def scenario():
        store = SlowStore()
        store.may_go_on.set()
        snapshots = Snapshots(SimpleNamespace(store=store))
        taken = await asyncio.gather(*(snapshots.take([ALL]) for _ in range(100)))
        return store.n_reads, {bytes(one) for one in taken}

    n_reads, taken = asyncio.run(scenario())

    assert n_reads == 1
    assert [orjson.loads(one) for one in taken] == [{"jobs": [], "is_complete": True}]


def test_who_asks_while_the_store_is_being_read_gets_a_later_reading():
    async def scenario():
        store = SlowStore()
        snapshots = Snapshots(SimpleNamespace(store=store))
        first = asyncio.create_task(snapshots.take([ALL]))
        await asyncio.to_thread(store.reading.wait, 10.0)
        second = asyncio.create_task(snapshots.take([ALL]))
        store.may_go_on.set()
        await asyncio.gather(first, second)
        return store.n_reads

    assert asyncio.run(scenario()) == 2


def test_a_store_that_is_away_is_said_and_takes_nothing_from_the_next():
    async def scenario():
        store = SlowStore()
        store.may_go_on.set()
        store.is_down = True
        snapshots = Snapshots(SimpleNamespace(store=store))
        away = await snapshots.take([ALL])
        store.is_down = False
        return orjson.loads(away), orjson.loads(await snapshots.take([ALL]))

    away, back = asyncio.run(scenario())

    assert away == {"jobs": None, "is_complete": False}
    assert back == {"jobs": [], "is_complete": True}


def test_a_client_that_leaves_takes_the_snapshot_from_nobody():
    async def scenario():
        store = SlowStore()
        snapshots = Snapshots(SimpleNamespace(store=store))
        leaving = asyncio.create_task(snapshots.take([ALL]))
        staying = asyncio.create_task(snapshots.take([ALL]))
        await asyncio.to_thread(store.reading.wait, 10.0)
        leaving.cancel()
        store.may_go_on.set()
        return orjson.loads(await staying), store.n_reads

    assert asyncio.run(scenario()) == ({"jobs": [], "is_complete": True}, 1)


def test_filters_of_other_streams_need_no_jobs():
    async def scenario():
        store = SlowStore()
        snapshots = Snapshots(SimpleNamespace(store=store))
        taken = await snapshots.take([Filter.of({"stream": ["health"]})])
        return orjson.loads(taken), store.n_reads

    assert asyncio.run(scenario()) == ({"jobs": [], "is_complete": True}, 0)

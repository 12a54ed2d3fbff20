import asyncio

from pynomaly_tasks.realtime.position import START
from pynomaly_tasks.realtime.streams import EntryId
from pynomaly_tasks.realtime.update import Away, Back, Gap, Skipped, Update, build_update
from pynomaly_tasks.realtime.watcher import Watcher


def update(number, job="a"):
    return build_update(number, 0, EntryId(number, 0), b'{"type":"job","job_id":"%s"}' % job.encode(), START)


def numbers(items):
    return [item.number for item in items if isinstance(item, Update)]


def encode(update):
    return b"%d " % update.number


class Socket:
    """Takes what is written while it is open."""

    def __init__(self):
        self.is_open, self.written = True, b""

    def write(self, data):
        self.written += data if self.is_open else b""
        return self.is_open


def test_a_batch_is_written_in_one_piece_and_each_update_encoded_once():
    encoded = []

    def encode_and_note(one):
        encoded.append(one.number)
        return encode(one)

    sockets = [Socket(), Socket()]
    updates = [update(1), update(2)]
    for socket in sockets:
        Watcher(encode_and_note, socket.write).offer(updates)

    assert [socket.written for socket in sockets] == [b"1 2 "] * 2
    assert encoded == [1, 2]


def test_nothing_overtakes_what_waits_or_is_in_hand():
    async def scenario():
        socket = Socket()
        watcher = Watcher(encode, socket.write)
        socket.is_open = False
        watcher.offer([update(1)])
        socket.is_open = True
        watcher.offer([update(2)])
        first = await watcher.take(1.0)
        watcher.offer([update(3)])  # the first are in hand, not told yet
        second = await watcher.take(1.0)
        assert await watcher.take(0.001) == []
        watcher.offer([update(4)])
        return numbers(first), numbers(second), socket.written

    assert asyncio.run(scenario()) == ([1, 2], [3], b"4 ")


def test_what_was_missed_comes_first_and_does_not_count_as_slow():
    async def scenario():
        watcher = Watcher(encode, max_waiting=10)
        watcher.replay([update(number, str(number)) for number in range(50)])
        for number in range(50, 57):
            watcher.offer([update(number, str(number))])
        taken = []
        while items := await watcher.take(0.001, max_items=20):
            taken += numbers(items)
        return taken, watcher.was_too_slow

    assert asyncio.run(scenario()) == (list(range(57)), False)


def test_notices_keep_their_place_when_older_states_are_left_out():
    async def scenario():
        watcher = Watcher(encode, max_waiting=4)
        watcher.offer([update(1), update(2)])
        watcher.tell(Away(reason="x"))
        watcher.offer([update(3)])
        watcher.tell(Back())
        watcher.offer([update(4, "b")])
        return await watcher.take(1.0)

    skipped, *kept = asyncio.run(scenario())

    assert skipped == Skipped(n_updates=2)
    assert [type(item) for item in kept] == [Away, Update, Back, Update]
    assert numbers(kept) == [3, 4]


def test_a_client_whose_newest_states_are_too_many_is_told_and_closed():
    async def scenario():
        watcher = Watcher(encode, max_waiting=4)
        for number in range(9):
            watcher.offer([update(number, str(number))])
        return await watcher.take(1.0), await watcher.take(1.0), watcher.was_too_slow

    told, then, was_too_slow = asyncio.run(scenario())

    assert [type(item) for item in told] == [Gap]
    assert told[0].position is None
    assert then is None
    assert was_too_slow


def test_a_closed_client_still_gets_what_waited():
    async def scenario():
        watcher = Watcher(encode)
        watcher.offer([update(1)])
        watcher.close()
        watcher.offer([update(2)])
        return numbers(await watcher.take(1.0)), await watcher.take(1.0)

    assert asyncio.run(scenario()) == ([1], None)

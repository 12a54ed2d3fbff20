"""The log on Redis Streams while Redis and the members of a group are killed and paused in turn."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.events.ports import Record
from pynomaly_tasks.events.redis_streams.producer import RedisProducer
from pynomaly_tasks.events.redis_streams.reader import RedisReader
from support import redis_log_member as member_process
from support.processes import Program, Programs
from support.waiting import wait_until

SEED = 20261122
N_MEMBERS = 3
KEYS = [f"key-{n}" for n in range(12)]
DRAIN_S = 60.0


class Run:
    """Appends without an end while faults are made; then what was acknowledged must have been applied."""

    def __init__(self, redis: RedisServer, programs: Programs, directory: Path) -> None:
        self._redis = redis
        self._programs = programs
        self._random = random.Random(SEED)
        self._url = f"{redis.url}/3"
        self._effects = directory / "effects.sqlite3"
        self._members: list[Program] = []
        self.acknowledged: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.n_unknown = 0

    def start(self) -> None:
        member_process.create_effects(self._effects)
        self._members = [self._start_member() for _ in range(N_MEMBERS)]

    def _start_member(self) -> Program:
        return self._programs.python(
            member_process.__file__, json.dumps([self._url, str(self._effects)]), name="member",
            env={"PYTHONPATH": str(Path(__file__).parents[1])}, ready="^joined", timeout_s=60.0,
        )  # fmt: skip

    async def append_for(self, duration_s: float) -> None:
        producer = RedisProducer(
            self._url, member_process.TOPICS, keep_s=3_600.0, max_record_bytes=1_000, timeout_s=1.0
        )
        end = time.monotonic() + duration_s
        faults = asyncio.create_task(asyncio.to_thread(self._make_faults, end))
        try:
            while not faults.done():
                await self._append_batch(producer)
                await asyncio.sleep(0.03)
            await faults
        finally:
            await producer.stop()

    async def _append_batch(self, producer: RedisProducer) -> None:
        batch = [(key, self.acknowledged[key]) for key in self._random.sample(KEYS, 6)]
        records = [Record(topic="faults", key=key.encode(), value=str(n).encode()) for key, n in batch]
        # As the relay does: what is not known to be there is sent again before anything later.
        while any(await producer.send(records)):
            self.n_unknown += 1
            await asyncio.sleep(0.02)
        for key, n in batch:
            self.acknowledged[key] = n + 1

    def _make_faults(self, end: float) -> None:
        faults = [self._kill_member, self._pause_member, self._kill_redis, self._pause_redis]
        while time.monotonic() < end:
            self._random.shuffle(faults)
            for fault in faults:
                fault()
                self.faults[fault.__name__] += 1
                pause_s = self._random.uniform(0.3, 1.0)
                now = time.monotonic()
                wait_until(lambda: time.monotonic() > now + pause_s, 5.0, "the next fault")  # noqa: B023  # at once

    def _kill_member(self) -> None:
        place = self._random.randrange(N_MEMBERS)
        self._members[place].kill()
        self._members[place] = self._start_member()

    def _pause_member(self) -> None:
        member = self._random.choice(self._members)
        member.pause()
        self._hold(member_process.LEASE_S * 1.5)
        member.resume()

    def _kill_redis(self) -> None:
        self._redis.kill()
        self._redis.start()

    def _pause_redis(self) -> None:
        self._redis.signal(signal.SIGSTOP)
        self._hold(member_process.TIMEOUT_S * 1.5)
        self._redis.signal(signal.SIGCONT)

    @staticmethod
    def _hold(duration_s: float) -> None:
        end = time.monotonic() + duration_s
        wait_until(lambda: time.monotonic() > end, duration_s + 5.0, "the end of the pause")

    def drain(self) -> list[tuple[str, int]]:
        """What was applied, once the group has read everything."""

        def lag() -> int:
            reader = RedisReader(self._url, member_process.TOPICS)
            return sum(asyncio.run(reader.lag(member_process.GROUP, ["faults"])).values())

        wait_until(lambda: lag() == 0, DRAIN_S, "the group to have read everything", every_s=0.2)
        return member_process.applied(self._effects)

    def n_refused_commits(self) -> int:
        return sum(program.output().count("\nlost ") for program in self._programs.started)


def _check(run: Run, duration_s: float) -> None:
    run.start()
    asyncio.run(run.append_for(duration_s))
    applied = run.drain()

    print(f"faults {dict(run.faults)}; {sum(run.acknowledged.values())} records, {run.n_unknown} calls unknown, "
          f"{run.n_refused_commits()} commits refused")  # fmt: skip
    order: defaultdict[str, list[int]] = defaultdict(list)
    for key, number in applied:
        order[key].append(number)
    assert {
        key: numbers == list(range(run.acknowledged[key])) for key, numbers in order.items()
    } == dict.fromkeys(run.acknowledged, True)
    assert min(run.faults.values()) >= 1
    assert run.n_unknown >= 1, "no call met an outage"


def test_nothing_is_lost_or_out_of_order_while_redis_and_members_are_killed(
    own_redis: RedisServer, programs: Programs, tmp_path: Path
) -> None:
    _check(Run(own_redis, programs, tmp_path), 6.0)


@pytest.mark.slow
def test_nothing_is_lost_or_out_of_order_over_minutes_of_kills(
    own_redis: RedisServer, programs: Programs, tmp_path: Path
) -> None:
    run = Run(own_redis, programs, tmp_path)

    _check(run, 180.0)

    assert sum(run.faults.values()) >= 40


def test_group_goes_on_with_an_empty_redis(
    own_redis: RedisServer, programs: Programs, tmp_path: Path
) -> None:
    run = Run(own_redis, programs, tmp_path)
    run.start()
    asyncio.run(run.append_for(0.1))
    n_before = len(run.drain())

    own_redis.restart(empty=True)
    asyncio.run(run.append_for(0.1))

    assert len(run.drain()) > n_before

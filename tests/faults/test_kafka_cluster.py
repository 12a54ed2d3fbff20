"""Nodes of a Kafka of three die in turn: nothing that was acknowledged is lost, every key stays in order."""

from __future__ import annotations

import asyncio
import random

import pytest

from pynomaly_tasks.errors import EventLogUnavailable
from support.event_logs import KafkaLog, Member, by_key, numbered, until
from support.kafka import KafkaCluster

N_KEYS = 6


def _lose_leaders(cluster: KafkaCluster, n_kills: int, seed: int) -> None:
    log = KafkaLog(cluster.bootstrap, cluster)
    draw = random.Random(seed)

    async def scenario() -> None:
        topic, group = cluster.new_topic(2), cluster.unique_name()
        producer = log.producer()
        await producer.start()
        acknowledged, n_unknown, is_over = 0, 0, asyncio.Event()

        async def produce() -> None:
            nonlocal acknowledged, n_unknown
            while not is_over.is_set():
                answers = await producer.send(numbered(topic, 12, n_keys=N_KEYS, first=acknowledged))
                if any(answers):
                    assert all(a is None or isinstance(a, EventLogUnavailable) for a in answers), answers
                    n_unknown += 1
                else:
                    acknowledged += 12
                await asyncio.sleep(0.02)

        async with Member(log, group, [topic]) as member:
            producing = asyncio.create_task(produce())
            await member.wait_for(100)
            for kill in range(n_kills):
                leader = await asyncio.to_thread(cluster.leader, topic, draw.randrange(2))
                leader.kill()
                before = acknowledged
                await until(
                    lambda before=before: producing.done() or acknowledged > before + 60,
                    60,
                    f"records to be acknowledged after kill {kill + 1} (seed {seed})",
                )
                n_read = len(member.records)
                await until(
                    lambda n_read=n_read: member.check() and len(member.records) > n_read + 60,
                    60,
                    "reading to go on",
                )
                await asyncio.to_thread(leader.restart)
                await asyncio.to_thread(cluster.wait_in_sync)
            is_over.set()
            await producing
            await until(
                lambda: member.check() and len(set(member.values)) == acknowledged, 60,
                lambda: f"{acknowledged} records; {len(set(member.values))} came",
            )  # fmt: skip
            for records in (
                member.records,
                await log.reader().read(topic, since=None, until=None, max_records=1_000_000),
            ):
                for key, found in by_key(records).items():
                    firsts = list(dict.fromkeys(int(value or b"") for value in found))
                    assert firsts == sorted(firsts), (key, seed)
                assert {int(record.value or b"") for record in records} == set(range(acknowledged))
        await producer.stop()

    asyncio.run(asyncio.wait_for(scenario(), 120 + 90 * n_kills))


def test_the_death_of_a_leader_loses_nothing(kafka_cluster: KafkaCluster) -> None:
    _lose_leaders(kafka_cluster, 1, 41)


@pytest.mark.slow
def test_the_deaths_of_many_leaders_lose_nothing(kafka_cluster: KafkaCluster) -> None:
    _lose_leaders(kafka_cluster, 12, 42)

"""Connections that are lent to one command at a time: an answer goes to who asked, or to nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.backends.redis_streams.connections import RedisConnections
from support.tcp_proxy import TcpProxy


def connections(port: int, *, timeout_s: float = 5.0, database: int = 0) -> RedisConnections:
    return RedisConnections(
        f"redis://127.0.0.1:{port}/{database}", connect_timeout_s=1.0, timeout_s=timeout_s
    )


def test_answer_of_a_cancelled_command_reaches_nobody(redis_server: RedisServer) -> None:
    async def scenario() -> list[bytes]:
        redis = connections(redis_server.port)
        for n in range(50):
            asked = asyncio.create_task(redis.ask("ECHO", "of the cancelled"))
            for _ in range(n % 5):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
        answers = [await redis.ask("ECHO", str(n)) for n in range(20)]
        await redis.close()
        return answers

    assert asyncio.run(scenario()) == [str(n).encode() for n in range(20)]


def test_commands_at_once_have_a_connection_each_and_keep_it_for_the_next(redis_server: RedisServer) -> None:
    async def scenario() -> tuple[list[bytes], int]:
        redis = connections(redis_server.port, database=3)
        answers: list[bytes] = []
        for _ in range(5):
            answers = await asyncio.gather(*(redis.ask("ECHO", str(n)) for n in range(20)))
        clients = await redis.ask("CLIENT", "LIST", "TYPE", "normal")
        await redis.close()
        return answers, clients.count(b" db=3 ")

    answers, n_connections = asyncio.run(scenario())

    assert answers == [str(n).encode() for n in range(20)]
    assert n_connections == 20


def test_silent_server_is_an_error_within_the_timeout_and_another_connection_is_taken(
    redis_server: RedisServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(redis_server.port)

    async def scenario() -> tuple[float, bytes]:
        redis = connections(proxy.port, timeout_s=0.3)
        await redis.ask("PING")
        proxy.stall()
        started_s = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"within 0\.3 s"):
            await redis.ask("ECHO", "late")
        took_s = time.monotonic() - started_s
        proxy.flow()
        answer: bytes = await redis.ask("ECHO", "after")
        await redis.close()
        return took_s, answer

    took_s, answer = asyncio.run(scenario())

    assert took_s < 1.0
    assert answer == b"after"


def test_server_that_ended_all_connections_costs_one_command(
    redis_server: RedisServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(redis_server.port)

    async def scenario() -> int:
        redis = connections(proxy.port)
        await asyncio.gather(*(redis.ask("PING") for _ in range(10)))
        proxy.reset()
        n_failed = 0
        for _ in range(10):
            try:
                await redis.ask("PING")
            except BrokerUnavailable:
                n_failed += 1
        await redis.close()
        return n_failed

    assert asyncio.run(scenario()) <= 1


def test_what_is_on_its_way_ends_when_they_are_closed(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        redis = connections(redis_server.port)
        waiting = asyncio.create_task(redis.ask("BLPOP", "nothing", "0", waits_s=60.0))
        while not (await redis.ask("CLIENT", "LIST")).count(b"cmd=blpop"):
            await asyncio.sleep(0.01)

        await redis.close()

        with pytest.raises(MessagingClosed):
            await asyncio.wait_for(waiting, 5.0)
        with pytest.raises(MessagingClosed):
            await redis.ask("PING")

    asyncio.run(scenario())

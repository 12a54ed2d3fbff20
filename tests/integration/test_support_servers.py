"""The tests' own neighbours keep what they promise to the tests."""

from __future__ import annotations

import socket
import subprocess

import psycopg
import pytest
import redis

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.servers import PostgresCluster, chromium_path
from support.waiting import wait_until


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("+psycopg", ""), connect_timeout=5)


def test_each_test_has_an_empty_database_of_its_own(postgres_url, postgres_cluster) -> None:
    other = postgres_cluster.new_database()

    with _connect(postgres_url) as first, _connect(other) as second:
        first.execute("CREATE TABLE t (n int)")
        second.execute("CREATE TABLE t (n int)")

    postgres_cluster.drop_database(other)


def test_own_postgres_survives_a_crash_and_keeps_its_port() -> None:
    cluster = PostgresCluster()
    try:
        cluster.start()
        url = cluster.new_database()
        with _connect(url) as connection:
            connection.execute("CREATE TABLE kept (n int)")

        cluster.restart()

        with _connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    finally:
        cluster.close()
    assert not cluster.directory.exists()


def test_proxy_passes_both_ways_and_counts(tcp_proxy, redis_server: RedisServer) -> None:
    proxy = tcp_proxy(redis_server.port)

    with redis.Redis(port=proxy.port, socket_timeout=5) as client:
        client.set("proxied", b"x" * 1_000_000)

        assert client.get("proxied") == b"x" * 1_000_000
    assert proxy.n_connections >= 1


def test_proxy_stalls_and_flows_again(tcp_proxy, redis_server: RedisServer) -> None:
    proxy = tcp_proxy(redis_server.port)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"

        proxy.stall()
        connection.settimeout(0.3)
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(100)

        proxy.flow()
        connection.settimeout(5)
        assert connection.recv(100) == b"+PONG\r\n"


def test_proxy_resets_and_takes_new_connections(tcp_proxy, redis_server: RedisServer) -> None:
    proxy = tcp_proxy(redis_server.port)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"

        proxy.reset()

        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    with redis.Redis(port=proxy.port, socket_timeout=5) as client:
        assert client.ping()


def test_proxy_cuts_after_bytes(tcp_proxy, redis_server: RedisServer) -> None:
    proxy = tcp_proxy(redis_server.port)
    proxy.cut_after_bytes = 3
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        connection.sendall(b"PING\r\n")

        received = b""
        with pytest.raises(ConnectionResetError):
            while chunk := connection.recv(100):
                received += chunk

    assert received in {b"+PO", b""}  # a reset may overtake what it follows


def test_proxy_refuses_until_it_flows(tcp_proxy, redis_server: RedisServer) -> None:
    proxy = tcp_proxy(redis_server.port)
    proxy.refuse()
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxy.port), 5) as refused,
    ):
        refused.recv(100)

    proxy.flow()

    with redis.Redis(port=proxy.port, socket_timeout=5) as client:
        assert client.ping()


def test_paused_program_answers_nothing_and_goes_on(programs) -> None:
    program = programs.python(
        "-uc", "import itertools, time\nfor n in itertools.count(): print(n); time.sleep(.01)", ready="^3$"
    )

    program.pause()
    written = wait_until(lambda: _same_twice(program.output), 10.0, "the output to stand still")
    program.resume()

    wait_until(lambda: len(program.output()) > written, 10.0, "the output to grow")


def _same_twice(read) -> int:
    first = read()
    subprocess.run(["sleep", "0.1"], check=True)
    return len(first) if read() == first else 0


def test_failed_wait_shows_what_the_program_wrote(programs) -> None:
    program = programs.python("-c", "print('only this')")

    with pytest.raises(AssertionError, match="only this"):
        program.wait_for_output("something else")


def test_wait_until_says_what_was_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"0\.05 s for the moon; the last value seen was 0"):
        wait_until(lambda: 0, 0.05, "the moon")


def test_chromium_is_there() -> None:
    assert chromium_path().exists()

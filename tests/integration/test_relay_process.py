"""One relay as a process: what it refuses, what it shows, how it starts and ends."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, make_url

from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.job import DeadReason
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.tables import outbox
from support.command_line import clean_environment
from support.kafka import KafkaNode
from support.processes import ROOT, Programs
from support.relays import Relays
from support.tcp_proxy import TcpProxy
from support.waiting import wait_until


@pytest.fixture
def start_relays(
    tmp_path: Path, programs: Programs, redis_server: RedisServer
) -> Iterator[Callable[..., Relays]]:
    started: list[Relays] = []
    with redis_server.client(3) as client:
        client.flushall()  # another test's topics

    def start(**env: str) -> Relays:
        relays = Relays(tmp_path, programs, {"PYNOMALY_REDIS__URL": redis_server.url, **env})
        started.append(relays)
        return relays

    yield start
    programs.close()
    for relays in started:
        relays.close()


def _write(relays: Relays, topic: str, key: str, filler: int = 0) -> str:
    event_id = new_id()
    with relays.store._db.writing() as connection:
        connection.execute(
            insert(outbox).values(
                event_id=event_id,
                topic=topic,
                key=key,
                type="job.started",
                payload={"job_id": key, "filler": "x" * filler},
                created_at=server_now(),
            )
        )
    return event_id


def test_what_kafka_refuses_for_ever_is_a_dead_letter_and_its_key_and_the_others_go_on(
    start_relays: Callable[..., Relays], kafka: KafkaNode
) -> None:
    topic = kafka.new_topic(2)
    relays = start_relays(
        PYNOMALY_EVENTS__BACKEND="kafka",
        PYNOMALY_KAFKA__BOOTSTRAP_SERVERS=kafka.bootstrap,
        PYNOMALY_KAFKA__COMPRESSION="none",
        PYNOMALY_EVENTS__MAX_EVENT_KB="4096",
    )
    before = _write(relays, topic, "a")
    too_large = _write(relays, topic, "a", filler=2 << 20)
    nowhere = _write(relays, kafka.unique_name("missing"), "a")
    after = _write(relays, topic, "a")
    beyond_the_limit = _write(relays, topic, "b", filler=5 << 20)
    other = _write(relays, topic, "b")
    relays.start()

    relays.wait_until_drained()

    published = {record.header("ce_id").decode(): record for record in kafka.read_topic(topic)}
    assert set(published) == {before, after, other}
    assert published[before].offset < published[after].offset
    letters = {orjson.loads(letter.payload)["id"]: letter for letter in relays.store.list_dead_letters()}
    assert set(letters) == {too_large, nowhere, beyond_the_limit}
    assert {letter.reason for letter in letters.values()} == {DeadReason.EVENT_REFUSED}
    assert "create-topics" in letters[nowhere].message
    assert "events.max_event_kb" in letters[beyond_the_limit].message


def test_metrics_say_what_was_published_and_what_waits(start_relays: Callable[..., Relays]) -> None:
    relays = start_relays()
    relays.write(*(f"key-{number}" for number in range(50)))
    program = relays.start(PYNOMALY_METRICS__PORT="0")
    port = program.wait_for_output(
        r'"port": (\d+).*"event": "metrics_served"|"event": "metrics_served".*"port": (\d+)'
    )
    relays.wait_until_drained()

    def read() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1] or port[2]}/metrics") as answer:
            text = answer.read().decode()
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("pynomaly_outbox")
        }

    metrics = wait_until(
        lambda: (now := read())["pynomaly_outbox_unsent"] == 0 and now, 20.0, "the gauges to be set again"
    )
    assert metrics["pynomaly_outbox_published_total"] == 50
    assert metrics["pynomaly_outbox_relay_leads"] == 1
    assert metrics["pynomaly_outbox_oldest_seconds"] == 0
    assert metrics["pynomaly_outbox_batch_seconds_count"] >= 1


def test_relay_wakes_at_once_after_a_commit_and_needs_no_redis_to_find_it(
    start_relays: Callable[..., Relays],
) -> None:
    relays = start_relays(PYNOMALY_OUTBOX__POLL_S="60", PYNOMALY_OUTBOX__LEASE_S="60")
    relays.start()
    relays.wait_for_leader()
    for number in range(5):
        relays.write(f"key-{number}")
        relays.platform.bell.ring()
        relays.wait_until_drained(20)

    assert relays.check_published() == 0


def test_store_that_is_away_is_waited_for(
    start_relays: Callable[..., Relays], postgres_url: str, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    url = make_url(postgres_url)
    assert url.port is not None
    proxy = tcp_proxy(url.port)
    behind_proxy = url.set(port=proxy.port).render_as_string(hide_password=False)
    relays = start_relays(PYNOMALY_STORE__URL=postgres_url)
    program = relays.start(PYNOMALY_STORE__URL=behind_proxy)
    relays.wait_for_leader()
    with relays.writing():
        wait_until(lambda: len(relays.written["key-0"]) > 5, 20.0, "events")
        proxy.refuse()
        program.wait_for_output("store_away")
        proxy.flow()
        program.wait_for_output("store_back")

    relays.wait_until_drained()
    relays.check_published()
    assert program.output().count("store_away") == 1


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PYNOMALY_OUTBOX__BATCH_SIZE", "0", "outbox.batch_size"),
        (
            "PYNOMALY_OUTBOX__LEASE_S",
            "1",
            "outbox.lease_s (1) must be longer than half of kafka.timeout_s (10)",
        ),
        ("PYNOMALY_METRICS__PORT", "99999", "metrics.port"),
    ],
)
def test_wrong_setting_ends_the_start_with_one_line(tmp_path: Path, name: str, value: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workers.relay"],
        env=clean_environment({name: value, "PYNOMALY_DATA__DIRECTORY": str(tmp_path)}),
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("pynomaly relay: ")
    assert says in line


def test_events_wait_for_a_kafka_whose_topics_were_not_created_yet(
    start_relays: Callable[..., Relays], own_kafka: KafkaNode
) -> None:
    relays = start_relays(
        PYNOMALY_EVENTS__BACKEND="kafka", PYNOMALY_KAFKA__BOOTSTRAP_SERVERS=own_kafka.bootstrap
    )
    relays.write("key-1", "key-2", "key-1")

    relays.start()
    wait_until(
        lambda: "pynomaly kafka create-topics" in (relays.lag().last_error or ""),
        30.0,
        "the relay to say what is missing",
    )
    assert relays.lag().n_unsent == 3
    own_kafka.create_topic("job_events", 2)

    relays.wait_until_drained()
    assert relays.check_published() == 0
    assert relays.platform.store.list_dead_letters(limit=10) == []

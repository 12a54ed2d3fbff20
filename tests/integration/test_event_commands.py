"""``pynomaly events`` and ``pynomaly audit`` over each log of events, as their users run them."""

import asyncio
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from pynomaly_tasks.core.event import JOB_EVENTS
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.events.ports import Record
from support.command_line import PYNOMALY, clean_environment, refused, run
from support.event_groups import (
    EventWorld,
    cancel_requested,
    completed,
    create_topics,
    failed,
    settings_of,
    until,
)
from support.processes import Programs
from support.waiting import wait_until


class Commands(EventWorld):
    """The world, with the environment that gives a command the same one."""

    env: Mapping[str, str]


@pytest.fixture(params=["kafka", "redis_streams"])
def world(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> Iterator[Commands]:
    kafka = None
    env = {"PYNOMALY_REDIS__URL": redis_server.url, "PYNOMALY_DATA__DIRECTORY": str(tmp_path)}
    if request.param == "kafka":
        kafka = request.getfixturevalue("module_kafka")
        create_topics(kafka)
        env |= {"PYNOMALY_EVENTS__BACKEND": "kafka", "PYNOMALY_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap}
    redis_server.client(3).flushall()
    world = Commands(settings_of(tmp_path, redis_server, kafka, events={"max_attempts": 1}))
    world.env = env
    yield world
    world.close()


HANDLERS = """
from pathlib import Path
from pynomaly_tasks import on_event

FAIL = Path(__file__).with_name("fail")

@on_event("job.failed", group="GROUP")
def bill(event, data):
    if FAIL.exists():
        raise ValueError("no such account")
    with Path(__file__).with_name("billed").open("a") as billed:
        billed.write(f"{data.job_id} {data.error.type}\\n")
"""


def run_async(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))


def test_group_of_ones_own_is_run_from_its_module_and_ends_at_sigterm(
    world: Commands, tmp_path: Path, programs: Programs
):
    group, job = f"g-{new_id()}", new_id()
    (tmp_path / "billing.py").write_text(HANDLERS.replace("GROUP", group))
    run_async(world.append(failed(job)))

    program = programs.start(
        PYNOMALY, "events", "consume", "--group", group, "--import", "billing",
        cwd=tmp_path, env={**world.env, "PYNOMALY_METRICS__PORT": "0"},
    )  # fmt: skip
    billed = tmp_path / "billed"
    wait_until(lambda: billed.exists() and job in billed.read_text(), 30, "the handler to be called")
    wait_until(lambda: asyncio.run(world.lag(group, JOB_EVENTS)) == 0, 30, "the commit")
    port = program.wait_for_output(r"metrics_served .*port=(\d+)")[1]
    told = f'pynomaly_consumer_lag{{group="{group}"'
    metrics = wait_until(
        lambda: told in (text := httpx.get(f"http://127.0.0.1:{port}/metrics").text) and text, 30, told
    )
    program.signal_group(signal.SIGTERM)

    assert f'pynomaly_events_applied_total{{group="{group}",topic="job_events"}}' in metrics
    wait_until(lambda: not program.is_running(), 15, "its end")
    assert program.returncode == 0, program.output()
    assert billed.read_text().count(f"{job} InvalidDataset") == 1
    done = run("events", "lag", "--group", "dashboard", env=world.env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "group\ttopic\tpartition\tlag"


def test_replay_applies_what_was_applied_once_more_and_leaves_the_group_where_it_is(world: Commands):
    async def consume() -> None:
        await world.append(first, second)
        async with world.running("dashboard"):
            await until(lambda: len(of(job)) == 2, "both frames")
            await until(none_left, "the commit")

    async def none_left() -> bool:
        return await world.lag("dashboard", JOB_EVENTS) == 0

    def of(job: str) -> list[str]:
        return [frame["event_id"] for frame in world.frames() if frame["job_id"] == job]

    job = new_id()
    first, second = failed(job), completed(job)
    run_async(consume())

    arguments = ["events", "replay", "--group", "dashboard", "--since", "1h", "--type", "job.comp*"]
    dry = run(*arguments, "--topic", JOB_EVENTS, "--dry-run", env=world.env)
    assert (dry.returncode, of(job)) == (0, [first.id, second.id]), dry.stderr
    assert "would be applied, 0 applied" in dry.stderr

    done = run(*arguments, "--topic", JOB_EVENTS, "--id", "again", env=world.env)
    assert done.returncode == 0, done.stderr
    assert of(job) == [first.id, second.id, second.id]
    repeated = run(*arguments, "--id", "again", env=world.env)
    assert "0 applied" in repeated.stderr
    assert of(job) == [first.id, second.id, second.id]
    assert run_and_return(world.lag("dashboard", JOB_EVENTS)) == 0

    place = run_and_return(place_of(world, second.id))
    here = run("events", "replay", "--group", "dashboard", "--offset", place, env=world.env)
    assert here.returncode == 0, here.stderr
    assert of(job) == [first.id, second.id, second.id, second.id]


def test_dead_letters_are_listed_shown_redriven_and_discarded(world: Commands, tmp_path: Path):
    group, job, other = f"g-{new_id()}", new_id(), new_id()
    (tmp_path / "billing.py").write_text(HANDLERS.replace("GROUP", group))
    (tmp_path / "fail").touch()
    event = failed(job)
    env = {**world.env, "PYTHONPATH": str(tmp_path)}
    raw = Record(topic=JOB_EVENTS, key=b"k", value=b"\xff\xfe", headers=[("x", b"\xff")])
    run_async(world.append(event, failed(other), raw))

    consume_all(world, group, tmp_path, env)

    letters = [one for one in run_and_return(world.letters()) if one.group == group]
    [mine] = [one.id for one in letters if dict(one.record.headers).get("ce_id") == event.id.encode()]
    [garbled] = [one.id for one in letters if one.record.value == b"\xff\xfe"]
    listed = run("events", "dead-letters", "list", "--group", group, "--limit", "9999", env=env).stdout
    rows = {line.split("\t")[0]: line.split("\t") for line in listed.splitlines()}
    assert rows[mine][2:4] == [group, JOB_EVENTS]
    assert rows[mine][5:] == ["handler_failed", "1", "", "ValueError: no such account"]
    assert rows[garbled][5] == "not_utf8"
    shown = json.loads(show(mine, env))
    assert (shown["reason"], shown["message"], shown["value"]["job_id"]) == (
        "handler_failed", "ValueError: no such account", job,
    )  # fmt: skip
    assert json.loads(show(garbled, env))["value"] == {"base64": "//4="}

    again = run("events", "dead-letters", "redrive", mine, "--import", "billing", env=env)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"{mine} stays: ValueError: no such account" in again.stderr

    (tmp_path / "fail").unlink()
    dry = run("events", "dead-letters", "redrive", mine, "--import", "billing", "--dry-run", env=env)
    assert dry.stdout == f"{mine} would be applied by {group}\n"
    done = run("events", "dead-letters", "redrive", mine, "--import", "billing", env=env)
    assert (done.returncode, done.stdout) == (0, f"{mine} applied by {group}\n"), done.stderr
    assert (tmp_path / "billed").read_text() == f"{job} InvalidDataset\n"
    twice = refused("events", "dead-letters", "redrive", mine, "--import", "billing", env=env)
    assert twice == f"dead letter {mine} was redriven before"

    gone = run("events", "dead-letters", "discard", "--group", group, "--reason", "not_utf8", env=env)
    assert gone.stdout == f"{garbled} discarded\n"
    left = run("events", "dead-letters", "list", "--group", group, "--limit", "9999", env=env).stdout
    assert {mine, garbled}.isdisjoint(line.split("\t")[0] for line in left.splitlines())
    everything = run("events", "dead-letters", "list", "--group", group, "--all", env=env).stdout
    assert {"redriven", "discarded"} <= set(everything.split())


def test_audit_log_is_listed_by_filter(world: Commands):
    job, other = new_id(), new_id()

    async def consume() -> None:
        await world.append(cancel_requested(job), cancel_requested(other))
        async with world.running("audit"):
            await until(lambda: len(world.platform.store.audit.list(limit=1_000)) >= 2, "the rows")

    run_async(consume())

    listed = run("audit", "list", "--subject", job, "--type", "audit.job.*", "--since", "1h", env=world.env)
    [_, row] = listed.stdout.splitlines()
    assert row.split("\t")[2:5] == ["ana", "audit.job.cancel_requested", job]
    whole = run("audit", "list", "--subject", other, "--json", env=world.env)
    [entry] = json.loads(whole.stdout)
    assert entry["data"]["reason"] == "typo"
    assert run("audit", "list", "--actor", "nobody", env=world.env).stdout.count("\n") == 1


def test_mistakes_are_one_line_or_a_usage_error(world: Commands):
    unknown = refused("events", "replay", "--group", "nobody", "--since", "1h", env=world.env)
    assert "no handler is registered for the group nobody" in unknown
    wrong = refused(
        "events", "replay", "--group", "audit", "--topic", "job_events", "--since", "1h", env=world.env
    )
    assert "the group audit does not read job_events; it reads audit_events" in wrong
    missing = refused("events", "dead-letters", "show", "0:99999999999999", env=world.env)
    assert missing == "there is no dead letter 0:99999999999999 of events"
    for arguments in (
        ["replay", "--group", "audit"],
        ["dead-letters", "discard"],
        ["consume", "--group", "g", "--import", "no.such"],
    ):
        assert run("events", *arguments, env=world.env).returncode == 2


def show(letter: str, env: Mapping[str, str]) -> str:
    done = run("events", "dead-letters", "show", letter, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_and_return(scenario: Any) -> Any:
    return asyncio.run(asyncio.wait_for(scenario, 60))


async def place_of(world: Commands, event_id: str) -> str:
    records = await world.platform.event_reader().read(
        JOB_EVENTS, since=None, until=None, max_records=100_000
    )
    [place] = {
        f"{one.topic}:{one.partition}:{one.offset}"
        for one in records
        if dict(one.headers).get("ce_id") == event_id.encode()
    }
    return place


def consume_all(world: Commands, group: str, directory: Path, env: Mapping[str, str]) -> None:
    programs = Programs(directory / "programs")
    try:
        programs.start(
            PYNOMALY, "events", "consume", "--group", group, "--import", "billing",
            cwd=directory, env={**clean_environment({}), **env, "PYNOMALY_EVENTS__MAX_ATTEMPTS": "1"},
        )  # fmt: skip
        wait_until(lambda: asyncio.run(world.lag(group, JOB_EVENTS)) == 0, 60, "everything to be dealt with")
    finally:
        programs.close()

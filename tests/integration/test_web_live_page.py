"""The page follows what happens, and says when it cannot: a web process, Redis, Debian's Chromium."""

import time

import pytest
from playwright.sync_api import expect, sync_playwright

from pynomaly_tasks.realtime.publisher import StreamPublisher
from pynomaly_tasks.realtime.streams import ACTIVITY_STREAM, HEALTH_STREAM, NOTIFICATIONS_STREAM
from support.servers import CHROMIUM_ARGUMENTS, chromium_path
from support.waiting import wait_until
from support.web_server import running_web, web_env

TIMEOUT_MS = 30_000


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=[*CHROMIUM_ARGUMENTS])
        yield browser
        browser.close()


@pytest.fixture
def web(own_redis, programs, tmp_path):
    (tmp_path / "data" / "uploads").mkdir(parents=True)
    (tmp_path / "data" / "uploads" / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    with running_web(programs, web_env(own_redis.url, tmp_path / "data")) as web:
        wait_until(lambda: web.client.get("/readyz").status_code == 200, 10.0, "the neighbours")
        yield web


@pytest.fixture
def page(browser, web):
    context = browser.new_context(base_url=web.address, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    mistakes = []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    yield page
    context.close()
    assert mistakes == []


@pytest.fixture
def publisher(own_redis):
    publisher = StreamPublisher(f"{own_redis.url}/3")
    yield publisher
    publisher.close()


def frame(job_id, current, **more):
    progress = {"current": current, "total": 10, "status": f"step {current}"}
    return {
        "type": "job",
        "event": "job.progress",
        "job_id": job_id,
        "state": "queued",
        "attempt": 0,
        "progress": progress,
        "at": time.time(),
        **more,
    }


def test_the_page_tells_what_else_happens_and_keeps_the_latest_of_it(page, publisher, tmp_path):
    uploaded = {"actor": "ada", "dataset": "<b>numbers.csv</b>"}
    publisher.publish(
        {"type": "activity", "event": "audit.dataset.uploaded", "at": time.time(), "data": uploaded},
        stream=ACTIVITY_STREAM,
    )
    page.goto("/")
    expect(page.locator("#live")).to_have_text("live", timeout=TIMEOUT_MS)
    failed = {"channel": "ops", "job_id": "0199-job", "reason": "mailbox full"}
    for number in range(6):
        publisher.publish(
            {
                "type": "notification",
                "event": "notification.failed",
                "at": time.time(),
                "data": {**failed, "reason": f"mailbox {number} is full"},
            },
            stream=NOTIFICATIONS_STREAM,
        )
        expect(page.locator("#feed li").first).to_contain_text(f"mailbox {number} is full")
        if number == 0:
            expect(page.locator("#feed li").last).to_contain_text("dataset uploaded ada · <b>numbers.csv</b>")
            page.screenshot(path=tmp_path / "feed.png", full_page=True)

    expect(page.locator("#feed li")).to_have_count(6)
    expect(page.locator("#feed a").first).to_have_attribute("href", "/jobs/0199-job")


def test_the_page_says_when_live_updates_are_away_and_goes_on_when_they_are_back(
    page, web, own_redis, publisher
):
    page.goto("/")
    expect(page.locator("#live")).to_have_text("live", timeout=TIMEOUT_MS)
    own_redis.stop()
    expect(page.locator("#live")).to_have_text("live updates are away", timeout=TIMEOUT_MS)
    own_redis.start()
    expect(page.locator("#live")).to_have_text("live", timeout=TIMEOUT_MS)
    again = StreamPublisher(f"{own_redis.url}/3")
    again.publish(
        {"type": "health", "event": "system.health", "at": time.time(), "data": {"status": "all is well"}},
        stream=HEALTH_STREAM,
    )
    again.close()

    expect(page.locator("#feed li").first).to_contain_text("all is well", timeout=TIMEOUT_MS)


def test_a_page_whose_connection_broke_gets_what_it_missed(
    page, web, programs, own_redis, publisher, tmp_path
):
    page.add_init_script(
        """
        window.told = [];
        const Source = window.EventSource;
        window.EventSource = class extends Source {
          constructor(address) {
            super(address);
            this.addEventListener("update", (event) => window.told.push(JSON.parse(event.data).number));
          }
        };
        """
    )
    page.goto("/jobs")
    expect(page.locator("#live")).to_have_text("live", timeout=TIMEOUT_MS)
    publisher.publish(frame("a", 1, number=1))
    wait_until(lambda: page.evaluate("window.told.length") == 1, 30.0, "the first update")
    port = web.address.rpartition(":")[2]
    web.program.stop(10.0)
    expect(page.locator("#live")).to_have_text("reconnecting", timeout=TIMEOUT_MS)
    publisher.publish(frame("a", 2, number=2))
    env = {**web_env(own_redis.url, tmp_path / "data"), "PYNOMALY_WEB__PORT": port}
    with running_web(programs, env):
        expect(page.locator("#live")).to_have_text("live", timeout=TIMEOUT_MS)
        publisher.publish(frame("a", 3, number=3))
        wait_until(lambda: page.evaluate("window.told.length") >= 3, 30.0, "what was missed, and more")
        told = page.evaluate("window.told")

    assert told == [1, 2, 3]


def test_a_person_who_signed_in_may_watch_over_both_ways(browser, own_redis, programs, tmp_path, publisher):
    env = web_env(own_redis.url, tmp_path / "data", WEB__API_KEY="s3cret")
    with running_web(programs, env) as web:
        context = browser.new_context(base_url=web.address)
        page = context.new_page()
        page.goto("/")
        page.fill("input[name=key]", "s3cret")
        page.keyboard.press("Enter")
        expect(page.locator("#live")).to_have_text("live", timeout=TIMEOUT_MS)
        told = page.evaluate(
            """() => new Promise((resolve, reject) => {
                const types = [];
                const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws", ["pynomaly.v1"]);
                socket.onopen = () => socket.send(JSON.stringify({ type: "subscribe", name: "all" }));
                socket.onerror = () => reject(new Error("refused"));
                socket.onmessage = (event) => {
                    types.push(JSON.parse(event.data).type);
                    if (types.length === 2) resolve([...types, socket.protocol]);
                };
            })"""
        )
        context.close()

    assert told == ["welcome", "subscribed", "pynomaly.v1"]

"""The web page in a real browser: Debian's Chromium, a web process, a worker, Redis."""

import random
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from support.jobs import settings_from
from support.pausing import pause_between_writes
from support.processes import ROOT, Programs
from support.servers import CHROMIUM_ARGUMENTS, chromium_path
from support.waiting import wait_until
from support.web_server import running_web, web_env

NAB = ROOT / "examples" / "data" / "nab"
TIMEOUT_MS = 60_000
EXPECTED_COMPLAINTS = (
    "the server responded with a status of 422",  # a browser notes every refused form
    "files/report.html' because the document's frame is sandboxed",  # our own script in the report
)

# Runs in the page before its own scripts: what the job's panel showed, in order, of this one page load.
RECORD = """
window.shown = [];
addEventListener("DOMContentLoaded", () => {
  const look = () => {
    const job = document.querySelector("#job");
    if (!job) return;
    const status = job.querySelector("[data-status]")?.textContent.trim();
    const seen = job.dataset.state + (job.dataset.state === "running" && status ? ": " + status : "");
    if (window.shown.at(-1) !== seen) window.shown.push(seen);
  };
  look();
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
});
"""

COUNT_RED = """
(box) => [...box.querySelectorAll("canvas")].map((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 0; i < data.length; i += 4) if (data[i] > 180 && data[i + 1] < 90 && data[i + 2] < 90 && data[i + 3] > 200) n++;
  return n;
})
"""


@pytest.fixture(scope="module")
def web(redis_server, tmp_path_factory):
    directory = tmp_path_factory.mktemp("page")
    programs = Programs(directory / "programs")
    env = web_env(redis_server.url, directory / "data")
    worker = programs.celery_worker("workers.all", "-c", "2", env=env, timeout_s=90.0)
    programs.python("-m", "workers.events", env=env, name="events", ready="events_started")
    with running_web(programs, env) as web:
        web.worker, web.store_url = worker, settings_from(env).store_url()
        yield web
    programs.close()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=[*CHROMIUM_ARGUMENTS])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, web):
    context = browser.new_context(base_url=web.address, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.add_init_script(RECORD)
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert [text for text in complaints if not any(one in text for one in EXPECTED_COMPLAINTS)] == []


def state_of(page):
    return page.locator("#job")


def wait_for_state(page, state):
    expect(state_of(page)).to_have_attribute("data-state", re.compile(state), timeout=TIMEOUT_MS)


@pytest.fixture(scope="module")
def long_table(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long_table.csv"
    rng = random.Random(3)
    rows = (",".join(f"{rng.gauss(0, 1):.3f}" for _ in range(6)) for _ in range(150_000))
    path.write_text("a,b,c,d,e,f\n" + "\n".join(rows))
    return path


def test_a_person_finds_the_anomalies_of_a_file_and_reads_the_report(page, web, tmp_path):
    page.goto("/")
    page.set_input_files("#file", NAB / "ambient_temperature_system_failure.csv")
    page.select_option("#detector", "rolling_robust_z")
    page.get_by_text("Parameters").locator("visible=true").click()
    page.get_by_label("Window points").locator("visible=true").fill("301")
    page.select_option("#method", "budget")
    page.fill("#threshold", "40")
    pause_between_writes(web.worker, web.store_url)
    page.click("#submit")
    page.wait_for_url("**/jobs/*")
    wait_for_state(page, "queued")
    web.worker.resume()

    wait_for_state(page, "succeeded")
    chart = page.locator("[data-chart]")
    expect(chart).not_to_have_attribute("data-drawn", "")
    expect(chart.locator(".uplot")).to_have_count(2)
    shown = page.evaluate("window.shown")
    red_pixels = chart.evaluate(COUNT_RED)
    page.screenshot(path=tmp_path / "detection.png", full_page=True)

    assert shown[0] == "queued"
    assert any(state.startswith("running") for state in shown)
    assert shown[-1] == "succeeded"  # one page load saw it all: nothing was reloaded
    assert min(red_pixels) > 100
    expect(page.locator(".tiles .hot dd")).to_have_text("40")
    expect(page.locator(".because")).to_have_count(20)
    with page.expect_download() as download:
        page.get_by_text("scores.parquet").click()
    assert Path(download.value.path()).read_bytes()[:4] == b"PAR1"
    page.click("#report")
    page.wait_for_url("**/files/report.html")
    expect(page.locator("h1")).to_contain_text("ambient_temperature_system_failure.csv")
    page.go_back()
    expect(page.locator("a#report")).to_be_visible()


def test_a_person_watches_progress_live_and_cancels(page, long_table):
    page.goto("/")
    page.set_input_files("#file", long_table)
    page.select_option("#detector", "lof")
    page.click("#submit")
    page.wait_for_url("**/jobs/*")
    wait_for_state(page, "running")
    page.get_by_text("Details").click()
    running = "window.shown.filter((state) => state.startsWith('running: ')).length"
    wait_until(lambda: page.evaluate(running) > 1, 60.0, "progress on the page")

    expect(page.locator("details.fold")).to_have_attribute("open", "")  # progress closes nothing
    page.click("#cancel")

    wait_for_state(page, "cancelled")
    expect(page.locator("#again")).to_be_visible()
    expect(page.locator("#cancel")).to_have_count(0)


def test_the_list_of_jobs_follows_what_happens_elsewhere(page, web):
    page.goto("/")
    expect(page.locator("#live")).to_have_text("live")
    source = page.request.post(
        "/api/v1/datasets",
        multipart={"file": {"name": "small.csv", "mimeType": "text/csv", "buffer": b"a,b\n1,2\n3,4\n"}},
    ).json()["source"]

    job = page.request.post(
        "/api/v1/jobs", data={"kind": "profile_dataset", "request": {"dataset": source}}
    ).json()

    row = page.locator(f'[data-job="{job["id"]}"]')
    expect(row).to_have_attribute("data-state", "succeeded", timeout=TIMEOUT_MS)
    expect(row).to_contain_text("small.csv")


def test_a_mistake_is_shown_beside_its_field_and_nothing_is_lost(page):
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.locator("#submit").focus()
    page.keyboard.press("Enter")
    expect(page.locator('[data-error-for="dataset"]')).to_have_text("Choose a file first.")

    page.set_input_files("#file", NAB / "nyc_taxi.csv")
    page.select_option("#detector", "knn")
    page.evaluate("document.querySelector('#knn-n_neighbors').value = '0'")
    page.click("#submit")

    error = page.locator('[data-error-for="detector"]')
    expect(error).to_contain_text("n_neighbors")
    expect(error).to_contain_text("greater than or equal to 1")
    expect(page.locator("#knn-n_neighbors")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#file-name")).to_have_text("nyc_taxi.csv")
    assert "/jobs/" not in page.url


@pytest.mark.parametrize("path", ["/", "/jobs", "/dead-letters"])
def test_every_page_fits_a_phone_and_every_control_has_a_name(browser, web, path):
    context = browser.new_context(
        base_url=web.address, viewport={"width": 360, "height": 740}, color_scheme="dark"
    )
    page = context.new_page()
    page.goto(path)

    width = page.evaluate("document.documentElement.scrollWidth")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, textarea')]"
        ".filter((one) => one.type !== 'hidden' && !one.labels.length).map((one) => one.outerHTML)"
    )
    context.close()

    assert width <= 360
    assert unnamed == []

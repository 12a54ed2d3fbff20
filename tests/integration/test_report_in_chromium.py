"""Reports on real data, opened in a real browser as a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from pynomaly_tasks.core.job import JobResult
from pynomaly_tasks.datasets import DatasetOpener
from pynomaly_tasks.jobs.context import Outcome
from pynomaly_tasks.kinds import detect_anomalies, generate_report, profile_dataset
from pynomaly_tasks.kinds.services import Services
from support.servers import CHROMIUM_ARGUMENTS, chromium_path

ROOT = Path(__file__).parents[2]
NAB = ROOT / "examples" / "data" / "nab"
TABLES = ROOT / "examples" / "data" / "adbench"


@dataclass
class Context:
    scratch: Path
    job_id: str = "job-1"
    attempt: int = 1

    def progress(self, current: int, total: int, status: str) -> None: ...

    def checkpoint(self) -> None: ...


@dataclass
class Shelf:
    """The results so far, as they come back from the store: through JSON."""

    results: dict[str, JobResult] = field(default_factory=dict)

    def put(self, job_id: str, outcome: Outcome) -> None:
        self.results[job_id] = JobResult(
            job_id=job_id,
            attempt=1,
            summary=json.loads(json.dumps(dict(outcome.summary))),
            detail=json.loads(json.dumps(dict(outcome.detail))),
            artifacts={},
            created_at=datetime.now(UTC),
        )

    def get_result(self, job_id: str) -> JobResult:
        return self.results[job_id]


@dataclass
class Desk:
    """Runs the work of jobs in this process, and opens their reports."""

    directory: Path
    browser: Browser
    shelf: Shelf = field(default_factory=Shelf)

    def __post_init__(self) -> None:
        (self.directory / "duckdb").mkdir()
        (self.directory / "scratch").mkdir()
        opener = DatasetOpener(
            roots=[NAB, TABLES, self.directory],
            max_columns=2_000,
            max_rows=1_000_000,
            memory_limit_mb=256,
            temp_directory=self.directory / "duckdb",
        )
        self.services = Services(
            datasets=opener,
            results=self.shelf,
            artifacts=None,  # type: ignore[arg-type]  # no file is read
            channels=None,  # type: ignore[arg-type]  # nothing is sent
            deliveries=None,  # type: ignore[arg-type]  # nothing is sent
            webhooks=None,  # type: ignore[arg-type]  # nothing is posted
        )
        self.context = Context(self.directory / "scratch")

    def detect(self, job_id: str, **request: Any) -> None:
        checked = detect_anomalies.DetectAnomaliesRequest.model_validate(request)
        self.shelf.put(job_id, detect_anomalies.perform(self.context, checked, self.services))

    def profile(self, job_id: str, **request: Any) -> None:
        checked = profile_dataset.ProfileDatasetRequest.model_validate(request)
        self.shelf.put(job_id, profile_dataset.perform(self.context, checked, self.services))

    def report(self, *job_ids: str, title: str | None = None) -> Path:
        request = generate_report.GenerateReportRequest(job=job_ids, title=title)
        return generate_report.perform(self.context, request, self.services).files["report.html"]


@dataclass
class Visit:
    """A page, and all it asked for or complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    blocked: dict[str, str | None] = field(default_factory=dict)  #: address to the browser's reason

    def open(self, path: Path) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.blocked.update({request.url: request.failure}))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.goto(path.as_uri())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium_path(), args=list(CHROMIUM_ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture
def desk(tmp_path: Path, browser: Browser) -> Desk:
    return Desk(tmp_path, browser)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1180, "height": 900}, offline=True)
    yield Visit(context.new_page())
    context.close()


def test_report_on_a_series_is_complete_alone_and_leads_from_mark_to_row(desk: Desk, visit: Visit) -> None:
    windows = json.loads((NAB / "windows.json").read_text())["nyc_taxi.csv"]
    desk.detect("job-1", dataset=str(NAB / "nyc_taxi.csv"), label_windows=windows)
    path = desk.report("job-1")

    visit.open(path)

    page = visit.page
    assert visit.requests == [path.as_uri()]
    assert visit.complaints == []
    assert path.stat().st_size < 200_000
    assert page.title() == "Anomalies in nyc_taxi.csv"
    assert page.locator("rect.band").count() == 2 * len(windows)
    chart = page.locator("svg.chart").bounding_box()
    assert chart is not None
    assert chart["width"] > 900
    assert chart["height"] > 300
    page.locator("a:has(circle.badge)").first.click()
    assert page.url.endswith("#job-1-a1")
    assert page.locator("tr:target th").inner_text() == "1"


def test_report_on_a_table_and_its_profile_fits_a_phone_and_the_dark(desk: Desk, visit: Visit) -> None:
    table = str(TABLES / "cardio.parquet")
    desk.detect("job-1", dataset=table, detector="ecod", contamination=0.1)
    desk.profile("job-2", dataset=table)
    path = desk.report("job-1", "job-2", title="Cardiotocography")
    visit.page.set_viewport_size({"width": 390, "height": 800})
    visit.page.emulate_media(color_scheme="dark")

    visit.open(path)

    page = visit.page
    assert visit.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert page.locator("section.job").count() == 2
    assert page.locator("td.why li").count() >= 20
    assert page.locator("svg.histogram").count() >= 10
    assert page.locator("svg.heat rect").count() >= 10


def test_markup_in_the_data_is_shown_and_never_runs(desk: Desk, visit: Visit, tmp_path: Path) -> None:
    attack = "<img src=x onerror=alert(1)>"
    data = tmp_path / "<svg onload=alert(2)>.csv"
    rows = "\n".join(f"{n % 7},{(n * 37) % 11},<script>alert({n % 3})</script>" for n in range(200))
    data.write_text(f'"{attack}","=cmd()","{attack}2"\n{rows}\n900,900,x\n')
    desk.detect("job-1", dataset=str(data), detector="ecod")
    desk.profile("job-2", dataset=str(data))
    path = desk.report("job-1", "job-2", title=f"</title><script>alert(3)</script>{attack}")

    visit.open(path)

    page = visit.page
    assert visit.complaints == []
    assert visit.requests == [path.as_uri()]
    assert page.locator("img, script, iframe, object, embed").count() == 0
    assert page.locator("h1").inner_text() == f"</title><script>alert(3)</script>{attack}"
    assert attack in page.locator("table.anomalies").first.inner_text()
    assert "<script>alert(0)</script>" in page.locator("table.profile").inner_text()


def test_the_pages_own_policy_stops_what_slipped_through(desk: Desk, visit: Visit, tmp_path: Path) -> None:
    desk.profile("job-1", dataset=str(TABLES / "wine.csv"))
    injected = "<script>document.title='owned'</script><img src='http://127.0.0.1:9/x'><b style='color:red'>x</b></body>"
    path = tmp_path / "tampered.html"
    path.write_text(desk.report("job-1").read_text().replace("</body>", injected))

    visit.open(path)

    assert visit.page.title() == "Profile of wine.csv"
    assert len([told for told in visit.complaints if "Content Security Policy" in told]) == 3
    assert visit.blocked == {"http://127.0.0.1:9/x": "csp"}


def test_a_report_prints_on_white_without_what_only_a_screen_can_do(desk: Desk, visit: Visit) -> None:
    desk.detect("job-1", dataset=str(NAB / "ec2_cpu_utilization_825cc2.csv"))
    visit.page.emulate_media(media="print", color_scheme="dark")

    visit.open(desk.report("job-1"))

    page = visit.page
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("details:visible").count() == 0
    assert len(page.pdf()) > 10_000

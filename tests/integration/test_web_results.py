"""What people and programs read of finished jobs: one worker, one web process, real data."""

import io
import random
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from support.processes import Programs
from support.waiting import wait_until
from support.web_server import running_web, web_env

JOBS = "/api/v1/jobs"
FINAL = {"succeeded", "failed", "cancelled", "dead"}
HOSTILE = '<img src=x onerror="alert(1)">'


def table_with_outliers():
    rng = random.Random(7)
    rows = [[rng.gauss(0, 1), rng.gauss(5, 2)] for _ in range(400)]
    rows[17], rows[230] = [30.0, 5.0], [0.0, -60.0]
    quoted = HOSTILE.replace('"', '""')
    return f'"{quoted}",=cmd()\n' + "\n".join(f"{a:.4f},{b:.4f}" for a, b in rows)


@pytest.fixture(scope="module")
def web(redis_server, tmp_path_factory):
    directory = tmp_path_factory.mktemp("results")
    programs = Programs(directory / "programs")
    uploads = directory / "data" / "uploads"
    uploads.mkdir(parents=True)
    (uploads / "table.csv").write_text(table_with_outliers())
    env = web_env(redis_server.url, directory / "data")
    programs.celery_worker("workers.all", "-c", "1", env=env, timeout_s=60.0)
    with running_web(programs, env) as web:
        yield web
    programs.close()


def run(web, kind, request, **options):
    response = web.client.post(JOBS, json={"kind": kind, "request": request, **options})
    assert response.status_code == 202, response.text
    path = response.headers["location"]

    def ended():
        job = web.client.get(path).json()
        return job if job["state"] in FINAL else None

    return wait_until(ended, 60.0, f"{kind} to end", every_s=0.1)


@pytest.fixture(scope="module")
def detection(web):
    return run(
        web,
        "detect_anomalies",
        {"dataset": "table.csv", "detector": "mahalanobis", "threshold": {"method": "budget", "value": 2}},
    )


@pytest.fixture(scope="module")
def report(web, detection):
    return run(web, "generate_report", {"job": detection["id"]}, tags=[f"report-of:{detection['id']}"])


def test_a_finished_detection_tells_what_it_found_and_how(web, detection):
    result = web.client.get(detection["links"]["result"]).json()

    assert detection["state"] == "succeeded"
    assert detection["summary"]["anomalies_found"] == 2
    assert [attempt["outcome"] for attempt in detection["attempts"]] == ["succeeded"]
    assert {anomaly["row"] for anomaly in result["detail"]["anomalies"]} == {17, 230}
    assert sum(result["detail"]["plot"]["anomaly"]) == 2


def test_scores_are_downloaded_whole(web, detection):
    result = web.client.get(detection["links"]["result"]).json()

    response = web.client.get(result["files"]["scores.parquet"])
    scores = pq.read_table(io.BytesIO(response.content)).to_pylist()

    assert response.headers["content-disposition"] == 'attachment; filename="scores.parquet"'
    assert response.headers["content-type"] == "application/vnd.apache.parquet"
    assert len(scores) == 400
    assert [row["row"] for row in scores if row["label"]] == [17, 230]


def test_a_report_is_shown_in_a_sandbox_where_nothing_can_run(web, report):
    files = web.client.get(report["links"]["result"]).json()["files"]
    response = web.client.get(files["report.html"])
    policy = response.headers["content-security-policy"]

    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-disposition"].startswith("inline")
    assert policy.startswith("sandbox;")
    assert "script-src" not in policy
    assert "default-src 'none'" in policy
    assert HOSTILE not in response.text
    assert web.client.get(files["anomalies.csv"]).headers["content-type"].startswith("text/csv")


@pytest.mark.parametrize("name", ["report.exe", "..%2F..%2Fjobs.sqlite3", "%2Fetc%2Fpasswd", ".hidden"])
def test_only_the_files_that_the_job_left_can_be_read(web, detection, name):
    response = web.client.get(f"{JOBS}/{detection['id']}/files/{name}")

    assert response.status_code in {404, 422}


def test_the_page_of_a_detection_shows_it_and_escapes_every_name(web, detection, report):
    html = web.client.get(f"/jobs/{detection['id']}").text

    assert "Mahalanobis on table.csv" in html
    assert "&lt;img src=x onerror=" in html
    assert "<img" not in html
    assert "=cmd()" in html
    assert f'href="/api/v1/jobs/{report["id"]}/files/report.html"' in html
    assert 'data-chart="' in html


def test_the_pages_of_a_profile_and_of_a_report_show_what_they_left(web, report):
    profile = run(web, "profile_dataset", {"dataset": "table.csv"})

    profile_html = web.client.get(f"/jobs/{profile['id']}").text
    report_html = web.client.get(f"/jobs/{report['id']}").text

    assert "400" in profile_html
    assert "profile.json" in profile_html
    assert "<img" not in profile_html
    assert "Open the report" in report_html


def test_a_failed_job_says_why_on_its_page_and_in_the_list(web):
    job = run(web, "detect_anomalies", {"dataset": "table.csv", "label_column": HOSTILE})

    page = web.client.get(f"/jobs/{job['id']}").text
    listed = web.client.get("/jobs", params={"state": "failed", "kind": "detect_anomalies"}).text

    assert job["state"] == "failed"
    assert "a label is 1 or 0" in job["error"]["message"]
    for html in (page, listed):
        assert "a label is 1 or 0" in html
        assert "<img" not in html


def test_a_dead_job_is_listed_with_its_reason(web):
    deadline_at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    body = {"kind": "profile_dataset", "request": {"dataset": "table.csv"}, "ordering_key": "one at a time"}
    first = web.client.post(JOBS, json={**body, "delay_s": 600}).json()

    job = run(web, **body, deadline_at=deadline_at)
    web.client.post(first["links"]["cancel"])
    letters = web.client.get("/api/v1/dead-letters").json()["dead_letters"]
    page = web.client.get("/dead-letters").text
    discarded = web.client.post(f"/api/v1/dead-letters/{letters[0]['id']}/discard")
    none = web.client.post("/api/v1/dead-letters/999/discard")

    assert (job["state"], job["dead_reason"]) == ("dead", "deadline_passed")
    assert [letter["job_id"] for letter in letters] == [job["id"]]
    assert "deadline passed" in page
    assert discarded.json()["discarded_at"] is not None
    assert none.status_code == 404
    assert f"/jobs/{job['id']}" in page


def test_a_filter_left_open_in_the_form_shows_every_job(web, detection):
    html = web.client.get("/jobs?state=&kind=").text

    assert detection["id"] in html

"""What differs between SQLite and PostgreSQL must not show."""

import pytest

from support.processes import Programs
from support.web_server import running_web, web_env

JOBS = "/api/v1/jobs"
REQUEST = {"kind": "profile_dataset", "request": {"dataset": "numbers.csv"}}


@pytest.fixture(scope="module")
def web(redis_server, module_postgres_url, tmp_path_factory):
    directory = tmp_path_factory.mktemp("web")
    programs = Programs(directory / "programs")
    (directory / "data" / "uploads").mkdir(parents=True)
    (directory / "data" / "uploads" / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    env = web_env(redis_server.url, directory / "data", STORE__URL=module_postgres_url)
    with running_web(programs, env) as web:
        yield web
    programs.close()


def test_jobs_are_found_by_tag(web):
    tagged = web.client.post(JOBS, json={**REQUEST, "tags": ["nightly", "50 % off"]}).json()
    web.client.post(JOBS, json={**REQUEST, "tags": ["nightly run"]})

    found = [
        [job["id"] for job in web.client.get(JOBS, params={"tag": tag}).json()["jobs"]]
        for tag in ("nightly", "50 % off", "night", "%")
    ]

    assert found == [[tagged["id"]], [tagged["id"]], [], []]


@pytest.mark.parametrize("path", ["/", "/jobs", "/jobs?state=queued&kind=profile_dataset", "/dead-letters"])
def test_every_page_is_shown(web, path):
    web.client.post(JOBS, json=REQUEST)

    assert web.client.get(path).status_code == 200


@pytest.mark.parametrize("path", [f"{JOBS}?kind=%00", f"{JOBS}?tag=%00", "/jobs?kind=%00", f"{JOBS}/%00"])
def test_a_nul_character_in_a_filter_is_refused(web, path):
    assert web.client.get(path).status_code == 422


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_at", "0001-01-01T00:00:00Z"),
        ("run_at", "9999-12-31T23:59:59-23:00"),
        ("deadline_at", "9999-12-31T23:59:59.999999Z"),
        ("run_at", "2030-01-01T00:00:00"),
    ],
)
def test_an_instant_that_no_calendar_holds_in_every_zone_is_refused(web, field, value):
    response = web.client.post(JOBS, json={**REQUEST, field: value})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == field

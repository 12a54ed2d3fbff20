"""Who and what may come in, and the headers of every answer."""

import httpx
import pytest

from support.processes import Programs
from support.web_server import running_web, web_env

JOBS = "/api/v1/jobs"
PAGE = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def started(redis_server, tmp_path_factory):
    directory = tmp_path_factory.mktemp("web")
    programs = Programs(directory / "programs")
    env = web_env(redis_server.url, directory / "data")
    with (
        running_web(programs, env) as web,
        running_web(programs, {**env, "PYNOMALY_WEB__API_KEY": "s3cret"}) as locked,
    ):
        yield web, locked
    programs.close()


@pytest.fixture
def web(started):
    return started[0]


@pytest.fixture
def locked(started):
    web = started[1]
    web.client.cookies.clear()
    return web


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/jobs",
        "/jobs/none",
        "/dead-letters",
        JOBS,
        f"{JOBS}/none",
        "/static/app.js",
        "/static/none",
        "/healthz",
    ],
)
def test_every_answer_carries_the_security_headers(web, path):
    headers = web.client.get(path, headers=PAGE).headers

    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_pages_hold_no_inline_script_or_style(web):
    for path in ("/", "/jobs", "/dead-letters"):
        html = web.client.get(path).text

        assert "<script>" not in html
        assert "style=" not in html
        assert "onclick" not in html


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_cannot_submit_cancel_or_upload(web, headers):
    answers = [
        web.client.post(JOBS, json={}, headers=headers),
        web.client.post(f"{JOBS}/none/cancel", headers=headers),
        web.client.post("/api/v1/datasets", files={"file": ("a.csv", b"a\n1\n")}, headers=headers),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 403]


def test_our_own_pages_and_programs_may(web):
    ours = {"Origin": web.address, "Sec-Fetch-Site": "same-origin"}

    assert web.client.post(f"{JOBS}/none/cancel", headers=ours).status_code == 404
    assert web.client.post(f"{JOBS}/none/cancel").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::1"])
def test_a_name_that_only_resolves_to_loopback_is_refused(web, host):
    assert web.client.get("/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8080"])
def test_loopback_by_its_own_names_is_served(web, host):
    assert web.client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "wrong"}, 401),
        ({"X-API-Key": "s3cret"}, 200),
        ({"Authorization": "Bearer s3cret"}, 200),
        ({"Authorization": "Bearer s3cre"}, 401),
    ],
)
def test_the_interface_asks_for_the_key(locked, headers, status):
    answer = locked.client.get(JOBS, headers=headers)

    assert answer.status_code == status
    assert status == 200 or answer.headers["www-authenticate"] == "Bearer"


def test_nothing_but_health_and_login_is_open_without_the_key(locked):
    paths = [
        "/",
        "/jobs",
        "/dead-letters",
        "/live",
        "/api/v1/events",
        "/api/v1/detectors",
        "/api/v1/openapi.json",
    ]

    closed = {path: locked.client.get(path).status_code for path in paths}
    opened = {path: locked.client.get(path).status_code for path in ("/healthz", "/readyz", "/login")}

    assert set(closed.values()) == {401}
    assert set(opened.values()) == {200}


def test_a_person_signs_in_with_the_key_and_out_again(locked):
    sent_to = locked.client.get("/jobs", headers=PAGE)
    wrong = locked.client.post("/login", data={"key": "wrong", "next": "/jobs"})
    right = locked.client.post("/login", data={"key": "s3cret", "next": "/jobs"})
    cookie = right.headers["set-cookie"].lower()
    inside = locked.client.get("/jobs", headers=PAGE)
    locked.client.post("/logout")
    outside = locked.client.get("/jobs", headers=PAGE)

    assert (sent_to.status_code, sent_to.headers["location"]) == (303, "/login?next=/jobs")
    assert wrong.status_code == 401
    assert "That is not the key." in wrong.text
    assert (right.status_code, right.headers["location"]) == (303, "/jobs")
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "s3cret" not in cookie
    assert (inside.status_code, outside.status_code) == (200, 303)


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_signing_in_never_leads_to_another_site(locked, target):
    answer = locked.client.post("/login", data={"key": "s3cret", "next": target})

    assert answer.headers["location"] == "/"


def test_whoever_guesses_is_put_off(redis_server, programs, tmp_path):
    env = web_env(redis_server.url, tmp_path / "data", WEB__API_KEY="s3cret")
    with running_web(programs, env) as web:
        statuses = [web.client.get(JOBS, headers={"X-API-Key": str(n)}).status_code for n in range(25)]
        form = httpx.post(f"{web.address}/login", data={"key": "s3cret"})

    assert statuses == [401] * 20 + [429] * 5
    assert form.status_code == 429

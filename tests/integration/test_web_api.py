"""The JSON interface of a real web process, with a real Redis and a SQLite store. No worker runs: jobs stay queued."""

import socket

import httpx
import pytest

from support.processes import Programs
from support.waiting import wait_until
from support.web_server import running_web, web_env

JOBS = "/api/v1/jobs"
CSV = "a,b\n" + "\n".join(f"{n},{n * n}" for n in range(50))


@pytest.fixture(scope="module")
def web(redis_server, tmp_path_factory):
    directory = tmp_path_factory.mktemp("web")
    programs = Programs(directory / "programs")
    uploads = directory / "data" / "uploads"
    uploads.mkdir(parents=True)
    (uploads / "numbers.csv").write_text(CSV)
    env = web_env(redis_server.url, directory / "data", DATA__MAX_UPLOAD_MB="1")
    with running_web(programs, env) as web:
        web.uploads = uploads
        yield web
    programs.close()


def submit(web, request=None, headers=None, **options):
    body = {"kind": "profile_dataset", "request": request or {"dataset": "numbers.csv"}, **options}
    return web.client.post(JOBS, json=body, headers=headers)


def n_jobs(web):
    return len(web.client.get(JOBS, params={"limit": 200}).json()["jobs"])


def problem_fields(response):
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    return [error["field"] for error in body["errors"]]


def test_a_submitted_job_is_found_where_its_location_says(web):
    response = submit(web, priority=7, tags=["nightly"], max_retries=1)

    job = web.client.get(response.headers["location"]).json()

    assert response.status_code == 202
    assert response.json()["id"] == job["id"]
    assert job["request"] == {"dataset": "numbers.csv"}
    assert (job["state"], job["priority"], job["tags"], job["max_retries"]) == ("queued", 7, ["nightly"], 1)
    assert job["attempts"] == []
    assert job["links"]["cancel"] == f"{JOBS}/{job['id']}/cancel"


def test_jobs_are_listed_newest_first_by_page_and_by_filter(web):
    ids = [submit(web, tags=["paged"]).json()["id"] for _ in range(5)]

    first = web.client.get(JOBS, params={"tag": "paged", "limit": 3}).json()
    second = web.client.get(JOBS, params={"tag": "paged", "limit": 3, "before": first["next_before"]}).json()
    filtered = [
        web.client.get(JOBS, params={"tag": "paged", **filters}).json()["jobs"]
        for filters in (
            {"state": "succeeded"},
            {"kind": "send_notification"},
            {"state": ["queued", "failed"]},
        )
    ]

    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ids[::-1]
    assert second["next_before"] is None
    assert [len(jobs) for jobs in filtered] == [0, 0, 5]


@pytest.mark.parametrize("params", [{"limit": 201}, {"limit": 0}, {"state": "gone"}, {"before": "x"}])
def test_a_wrong_filter_is_named(web, params):
    response = web.client.get(JOBS, params=params)

    assert response.status_code == 422
    assert problem_fields(response)[0].split(".")[0] in params


BAD_REQUESTS = {
    "unknown kind": ({"kind": "make_tea", "request": {}}, "kind"),
    "unknown field": (
        {"kind": "profile_dataset", "request": {"dataset": "numbers.csv"}, "colour": 1},
        "colour",
    ),
    "priority 10": (
        {"kind": "profile_dataset", "request": {"dataset": "numbers.csv"}, "priority": 10},
        "priority",
    ),
    "retries 11": (
        {"kind": "profile_dataset", "request": {"dataset": "numbers.csv"}, "max_retries": 11},
        "max_retries",
    ),
    "negative delay": (
        {"kind": "profile_dataset", "request": {"dataset": "numbers.csv"}, "delay_s": -1},
        "delay_s",
    ),
    "no request": ({"kind": "profile_dataset"}, "request"),
    "request is a list": ({"kind": "profile_dataset", "request": []}, "request"),
    "unknown request field": (
        {"kind": "profile_dataset", "request": {"dataset": "numbers.csv", "x": 1}},
        "x",
    ),
    "dataset outside": ({"kind": "profile_dataset", "request": {"dataset": "../../etc/passwd"}}, "dataset"),
    "dataset missing": ({"kind": "profile_dataset", "request": {"dataset": "gone.csv"}}, "dataset"),
    "unknown detector": (
        {"kind": "detect_anomalies", "request": {"dataset": "numbers.csv", "detector": "crystal_ball"}},
        "detector.name",
    ),
    "parameter out of range": (
        {
            "kind": "detect_anomalies",
            "request": {
                "dataset": "numbers.csv",
                "detector": {"name": "knn", "params": {"n_neighbors": 0}},
            },
        },
        "detector.params.n_neighbors",
    ),
    "contamination 0.6": (
        {"kind": "detect_anomalies", "request": {"dataset": "numbers.csv", "contamination": 0.6}},
        "contamination",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_refused_with_its_field_and_nothing_is_stored(web, name):
    body, field = BAD_REQUESTS[name]
    before = n_jobs(web)

    response = web.client.post(JOBS, json=body)

    assert response.status_code == 422
    assert problem_fields(response) == [field]
    assert n_jobs(web) == before


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind": "profile_dataset", "request": {"dataset": NaN}}',
        b'{"kind": "detect_anomalies", "request": {"contamination": Infinity}}',
        b"[" * 1_100 + b"]" * 1_100,
        b'{"kind": ' + b'{"a":' * 1_100 + b"1" + b"}" * 1_101,
        b'{"kind": "\xff"}',
        b"{",
        b"null",
    ],
    ids=["NaN", "Infinity", "1,100-deep list", "1,100-deep object", "not UTF-8", "cut off", "null"],
)
def test_json_that_is_none_or_too_deep_is_refused(web, body):
    response = web.client.post(JOBS, content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    assert problem_fields(response) == ["body"]


def test_deep_json_within_the_readers_limit_is_refused_by_the_request_itself(web):
    body = b'{"kind": "profile_dataset", "request": {"dataset": ' + b"[" * 900 + b"]" * 900 + b"}}"

    response = web.client.post(JOBS, content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    assert problem_fields(response) == ["request"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", None]
)
def test_only_json_is_taken_for_json(web, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}

    response = web.client.post(JOBS, content=b'{"kind": "profile_dataset"}', headers=headers)

    assert response.status_code == 415


def test_a_request_over_one_mebibyte_is_refused_by_its_length(web):
    before = n_jobs(web)

    response = submit(web, {"dataset": "x" * 1_100_000})

    assert response.status_code == 413
    assert "1 MiB" in response.json()["detail"]
    assert n_jobs(web) == before


def test_a_request_over_one_mebibyte_in_chunks_is_cut_off(web):
    def chunks():
        yield b'{"kind": "'
        for _ in range(40):
            yield b"x" * 50_000

    try:
        status = web.client.post(
            JOBS, content=chunks(), headers={"Content-Type": "application/json"}
        ).status_code
    except httpx.WriteError:
        status = "cut off"

    assert status in {413, "cut off"}
    assert web.client.get("/healthz").status_code == 200


def test_the_same_idempotency_key_returns_the_job_that_exists(web):
    first = submit(web, headers={"Idempotency-Key": "order 17"})
    again = submit(web, headers={"Idempotency-Key": "order 17"})
    other = submit(web, {"dataset": "numbers.csv", "seed": 1}, headers={"Idempotency-Key": "order 17"})

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 409)
    assert first.json()["id"] == again.json()["id"]


def test_a_cancelled_job_stays_cancelled_and_can_be_run_again_edited(web):
    job = submit(web, tags=["mine"]).json()

    too_early = web.client.post(f"{JOBS}/{job['id']}/retry")
    cancelled = web.client.post(f"{JOBS}/{job['id']}/cancel", json={"reason": "wrong file"})
    again = web.client.post(f"{JOBS}/{job['id']}/cancel")
    retried = web.client.post(f"{JOBS}/{job['id']}/retry", json={"request": {"n_bins": 5}})
    wrong = web.client.post(f"{JOBS}/{job['id']}/retry", json={"request": {"n_bins": 1}})

    assert too_early.status_code == 409
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert again.status_code == 409
    assert again.headers["content-type"] == "application/problem+json"
    assert retried.status_code == 202
    new = web.client.get(retried.headers["location"]).json()
    assert new["replay_of"] == job["id"]
    assert new["request"] == {"dataset": "numbers.csv", "n_bins": 5}
    assert problem_fields(wrong) == ["n_bins"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{JOBS}/none"),
        ("POST", f"{JOBS}/none/cancel"),
        ("POST", f"{JOBS}/none/retry"),
        ("GET", f"{JOBS}/none/result"),
        ("GET", f"{JOBS}/none/files/scores.parquet"),
        ("GET", "/api/v1/none"),
    ],
)
def test_what_does_not_exist_is_a_problem_with_404(web, method, path):
    response = web.client.request(method, path)

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_a_queued_job_has_no_result_yet(web):
    job = submit(web).json()

    assert web.client.get(f"{JOBS}/{job['id']}/result").status_code == 404


def test_every_detector_is_listed_with_its_parameters(web):
    detectors = {one["name"]: one for one in web.client.get("/api/v1/detectors").json()["detectors"]}

    knn = detectors["knn"]["params_schema"]["properties"]["n_neighbors"]
    assert detectors["rolling_robust_z"]["kind"] == "series"
    assert (knn["minimum"], knn["default"]) == (1, 5)


def test_an_uploaded_file_can_be_named_by_a_job(web):
    response = web.client.post("/api/v1/datasets", files={"file": ("../My <data>.csv", CSV)})

    dataset = response.json()
    assert response.status_code == 201
    assert dataset["source"] == "My_data.csv"
    assert (web.uploads / "My_data.csv").read_text() == CSV
    assert dataset in web.client.get("/api/v1/datasets").json()["datasets"]
    assert submit(web, {"dataset": dataset["source"]}).status_code == 202


@pytest.mark.parametrize(
    ("request_parts", "status"),
    [
        ({"files": {"file": ("empty.csv", b"")}}, 422),
        ({"files": {"other": ("a.csv", b"a\n1\n")}}, 422),
        ({"files": {"file": ("binary.csv", bytes(range(256)))}}, 422),
        ({"files": {"file": ("program.exe", b"a\n1\n")}}, 422),
        ({"content": b"a\n1\n", "headers": {"Content-Type": "text/csv"}}, 415),
        ({"content": b"xx", "headers": {"Content-Type": "multipart/form-data"}}, 422),
        ({"files": {"file": ("big.csv", b"1" * (1 << 21))}}, 413),
    ],
    ids=["empty", "other field", "binary", "unknown suffix", "no form", "no boundary", "too large"],
)
def test_a_bad_upload_is_refused_and_leaves_no_file(web, request_parts, status):
    before = sorted(web.uploads.iterdir())

    response = web.client.post("/api/v1/datasets", **request_parts)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert sorted(web.uploads.iterdir()) == before


def test_an_upload_whose_sender_goes_away_leaves_no_file(web):
    address = httpx.URL(web.address)
    head = (
        f"POST /api/v1/datasets HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nContent-Length: 500000\r\n"
        "Content-Type: multipart/form-data; boundary=xx\r\n\r\n"
        '--xx\r\nContent-Disposition: form-data; name="file"; filename="half.csv"\r\n\r\n'
    )
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(head.encode() + b"1," * 50_000)
        wait_until(lambda: list(web.uploads.glob(".incoming-*")), 5.0, "the upload to begin")

    wait_until(lambda: not list(web.uploads.glob(".incoming-*")), 5.0, "the half file to be removed")
    assert not (web.uploads / "half.csv").exists()
    assert "Traceback" not in web.program.output()


def test_neighbours_are_reported_ready(web):
    assert web.client.get("/healthz").json() == {"status": "ok"}
    assert web.client.get("/readyz").json() == {"status": "ok", "store": "ok", "broker": "ok"}


def test_the_interface_describes_itself_with_an_example_that_works(web):
    schema = web.client.get("/api/v1/openapi.json").json()

    example = schema["components"]["schemas"]["SubmitJob"]["examples"][0]
    example["request"]["dataset"] = "numbers.csv"

    assert web.client.post(JOBS, json=example).status_code == 202
    assert {"/api/v1/jobs", "/live", "/api/v1/datasets"} <= set(schema["paths"])

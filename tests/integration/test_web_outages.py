"""What people see while a neighbour is away or the disk is full."""

import sys

from pynomaly_tasks.embedded.ports import find_free_port
from support.waiting import wait_until
from support.web_server import running_web, web_env

JOBS = "/api/v1/jobs"
REQUEST = {"kind": "profile_dataset", "request": {"dataset": "numbers.csv"}}


def data_directory(tmp_path):
    uploads = tmp_path / "data" / "uploads"
    uploads.mkdir(parents=True)
    (uploads / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    return tmp_path / "data"


def test_a_job_is_accepted_while_the_broker_is_down_because_its_row_is_the_truth(
    own_redis, programs, tmp_path
):
    with running_web(programs, web_env(own_redis.url, data_directory(tmp_path))) as web:
        own_redis.kill()
        ready = web.client.get("/readyz")
        submitted = web.client.post(JOBS, json=REQUEST)
        page = web.client.get("/jobs")
        own_redis.start()
        wait_until(lambda: web.client.get("/readyz").status_code == 200, 10.0, "the broker to be seen again")

    assert (ready.status_code, ready.json()["broker"]) == (503, "unavailable")
    assert ready.headers["retry-after"] == "5"
    assert submitted.status_code == 202
    assert page.status_code == 200


def test_without_the_store_people_are_asked_to_come_back_later(own_redis, programs, tmp_path):
    store_url = f"postgresql+psycopg://nobody@127.0.0.1:{find_free_port()}/none"
    with running_web(programs, web_env(own_redis.url, data_directory(tmp_path), STORE__URL=store_url)) as web:
        alive = web.client.get("/healthz")
        ready = web.client.get("/readyz")
        answers = [web.client.get(JOBS), web.client.post(JOBS, json=REQUEST)]
        page = web.client.get("/", headers={"Accept": "text/html"})

    assert alive.status_code == 200
    assert (ready.status_code, ready.json()["store"]) == (503, "unavailable")
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(503, "5")] * 2
    assert page.status_code == 503
    assert page.headers["content-type"].startswith("text/html")


def test_an_upload_that_does_not_fit_the_disk_says_so_and_leaves_no_file(own_redis, programs, tmp_path):
    directory = data_directory(tmp_path)
    limit_2_mib = ("bash", "-c", 'ulimit -f 2048; exec "$@"', "-")
    with running_web(programs, web_env(own_redis.url, directory), *limit_2_mib) as web:
        response = web.client.post("/api/v1/datasets", files={"file": ("big.csv", b"1\n" * 2_000_000)})
        small = web.client.post("/api/v1/datasets", files={"file": ("small.csv", b"a\n1\n")})

    assert response.status_code == 507
    assert "disk is full" in response.json()["detail"]
    assert small.status_code == 201
    assert sorted(path.name for path in (directory / "uploads").iterdir()) == ["numbers.csv", "small.csv"]


def test_a_taken_port_stops_the_start_with_the_setting_that_names_it(own_redis, programs, tmp_path):
    env = web_env(own_redis.url, data_directory(tmp_path))
    env["PYNOMALY_WEB__PORT"] = str(own_redis.port)

    program = programs.start(sys.executable, "-m", "workers.web", name="web", env=env)
    wait_until(lambda: not program.is_running(), 20.0, "the end of the process")

    assert program.returncode == 1
    assert "web.port" in program.output()
    assert "choose another port" in program.output()

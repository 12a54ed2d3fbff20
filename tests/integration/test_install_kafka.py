"""The installer of the tests' Apache Kafka takes what the lock file names, and nothing else."""

from __future__ import annotations

import hashlib
import importlib.util
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from support.processes import ROOT

_JAR = b"the content of a jar"
_DIGEST = hashlib.sha256(_JAR).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_kafka", ROOT / "scripts" / "install_kafka.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TRY_AGAIN_AFTER_S", (0.0, 0.0))
    return module


@pytest.fixture
def repository(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Answer]]:
    """Answers of a repository on loopback, one a request; the last is given from then on."""
    answers: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (answers.pop(0) if len(answers) > 1 else answers[0])(self)

        def log_message(self, *arguments: object) -> None:
            """Nothing: standard error is the test's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(installer, "REPOSITORY", f"http://127.0.0.1:{server.server_port}/")
        yield answers
        server.shutdown()
        thread.join()


def _send(content: bytes, length: int | None = None, status: int = 200) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(content) if length is None else length))
        request.end_headers()
        request.wfile.write(content)

    return answer


def _download(installer: ModuleType, target: Path) -> int:
    size_bytes: int = installer.download("group/a.jar", _DIGEST, target, ssl.create_default_context())
    return size_bytes


@pytest.mark.parametrize(
    "first", [_send(_JAR[:5], length=len(_JAR)), _send(b"busy", status=503), _send(b"another file")]
)
def test_failed_download_is_tried_again(installer, repository, tmp_path: Path, first: Answer) -> None:
    repository += [first, _send(_JAR)]

    assert _download(installer, tmp_path / "a.jar") == len(_JAR)

    assert (tmp_path / "a.jar").read_bytes() == _JAR


def test_jar_of_another_content_is_refused_and_leaves_nothing(installer, repository, tmp_path: Path) -> None:
    repository += [_send(b"not what was locked")]

    with pytest.raises(SystemExit, match=rf"a\.jar could not be had: its SHA-256 is .* says {_DIGEST}"):
        _download(installer, tmp_path / "a.jar")

    assert list(tmp_path.iterdir()) == []


def test_directory_holds_what_the_lock_file_names(installer, repository, tmp_path: Path) -> None:
    repository += [_send(_JAR)]
    (tmp_path / "a.jar").write_bytes(b"damaged")
    (tmp_path / "of-another-version.jar").write_bytes(_JAR)
    jars = {
        "org/kafka_2.13/4.0.0/a.jar": _DIGEST,
        "org/b.jar": _DIGEST,
    }

    installer.fetch(jars, tmp_path)

    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"a.jar": _JAR, "b.jar": _JAR}


def test_lock_file_names_each_jar_once_with_its_checksum(installer) -> None:
    jars = installer.read_lock()

    assert installer.kafka_version(jars).startswith("4.")
    assert len({path.rsplit("/", 1)[1] for path in jars}) == len(jars)
    assert all(len(digest) == 64 and path.endswith(".jar") for path, digest in jars.items())


def test_old_java_is_not_taken(installer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.touch(0o755)
    release = tmp_path / "jdk" / "release"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))

    release.write_text('JAVA_VERSION="1.8.0_402"\n')
    assert installer.java_version(java) == 8
    assert installer.find_java() != java

    release.write_text('JAVA_VERSION="21.0.2"\n')
    assert installer.find_java() == java

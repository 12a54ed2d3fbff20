"""The floor plan holds: import-linter's contracts, and the rules that it cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pynomaly_tasks"
MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "workers").rglob("*.py")])
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "support" not in path.parts)
SUPPORT = sorted((ROOT / "tests" / "support").rglob("*.py"))
MAX_LINES = 400

#: They hand the environment on to a child process; they look nothing up in it.
MAY_PASS_ENVIRONMENT = {"settings", "embedded", "cli"}


def _names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file's code refers to."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id


def _holding(paths: list[Path], words: set[str]) -> list[Path]:
    """Those whose text has one of the words: to read the code of all of them takes seconds."""
    return [path for path in paths if any(word in path.read_text("utf-8") for word in words)]


def _uses(paths: list[Path], *names: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in _holding(paths, {name.rpartition(".")[2] for name in names})
        for line, name in _names(path)
        if name in names
    ]


def test_imports_point_down_and_client_libraries_stay_at_home() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_package_escapes_the_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layered = " ".join(contracts[0]["layers"])
    parts = {f"pynomaly_tasks.{path.stem}" for path in PACKAGE.iterdir() if path.suffix == ".py"}
    parts |= {f"pynomaly_tasks.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    parts -= {"pynomaly_tasks.__init__", "pynomaly_tasks.__main__"}

    assert [part for part in sorted(parts) if part not in layered] == []
    homes = {
        "sqlalchemy": 1,
        "celery": 3,
        "redis": 7,
        "aiokafka": 3,
        "aio_pika": 1,
        "cloudevents": 1,
        "fastapi": 1,
        "click": 1,
        "duckdb": 3,
        "sklearn": 1,
    }
    for contract in contracts[1:]:
        library = contract["forbidden_modules"][0]
        assert len(parts - set(contract["source_modules"])) == homes[library], contract["name"]


def test_whoever_connects_to_kafka_leaves_nothing_open() -> None:
    # aiokafka's own leave connections open where they are cancelled; `kafka_client.clients` ends them.
    makers = {"AIOKafkaAdminClient", "AIOKafkaClient", "AIOKafkaConsumer", "AIOKafkaProducer", "create_conn"}
    others = [path for path in [*MODULES, *TESTS, *SUPPORT] if "kafka_client" not in path.parts]
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}"
        for path in _holding(others, makers)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in makers
    ]

    assert calls == []


def test_only_the_settings_read_the_environment() -> None:
    others = [path for path in MODULES if path.relative_to(ROOT).parts[1] not in MAY_PASS_ENVIRONMENT]

    assert _uses(others, "os.environ", "os.getenv", "environ", "getenv") == []


def test_no_module_is_two_ideas() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in MODULES}

    assert {str(path): n_lines for path, n_lines in lengths.items() if n_lines > MAX_LINES} == {}


def test_tests_wait_for_conditions_and_never_skip() -> None:
    found = _uses(
        TESTS, "time.sleep", "pytest.skip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"
    )

    assert found == []


def test_file_names_of_tests_are_unique() -> None:
    names = [path.name for path in TESTS if path.name.startswith("test_")]

    assert sorted({name for name in names if names.count(name) > 1}) == []


IMPORT_WATCHED = """
import sys
def watch(event, arguments):
    if event in {"socket.connect", "socket.bind", "socket.getaddrinfo", "sqlite3.connect"}:
        raise SystemExit(f"{event} {arguments[1:]} while importing")
sys.addaudithook(watch)
"""
HEAVY = {
    "sqlalchemy",
    "numpy",
    "scipy",
    "duckdb",
    "pyarrow",
    "sklearn",
    "statsmodels",
    "fastapi",
    "jinja2",
    "apprise",
}


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WATCHED + code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy_and_opens_no_connection() -> None:
    loaded = _python("import pynomaly_tasks\nprint(*sys.modules)").split()

    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()


@pytest.mark.large
def test_kinds_load_nothing_heavy() -> None:
    modules = [f"pynomaly_tasks.kinds.{path.stem}" for path in (PACKAGE / "kinds").glob("[a-z]*.py")]
    loaded = _python(f"import {', '.join(modules)}\nprint(*sys.modules)").split()

    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()


@pytest.mark.large
def test_importing_any_module_opens_no_connection() -> None:
    _python(
        "import importlib, pathlib\n"
        "for package in ['pynomaly_tasks', 'workers']:\n"
        "    for path in sorted(pathlib.Path(package).rglob('*.py')):\n"
        "        name = '.'.join(path.with_suffix('').parts).removesuffix('.__init__')\n"
        "        if '__main__' not in name and '.migrations.' not in name:\n"
        "            importlib.import_module(name)\n"
    )

"""Install the Apache Kafka that the tests run against: its jars from Maven Central, and Java where none is.

scripts/kafka_jars.lock names each jar with its SHA-256. All goes to
${XDG_CACHE_HOME:-~/.cache}/pynomaly/kafka-<version>/:

    jars/                 Kafka and what it needs to run
    bootstrap.checkpoint  what Kafka's storage tool writes into a new data directory
    classes.jsa           the classes that a node loads at its start, ready to map: starts in half the time
    jvm.args              options for `java @jvm.args kafka.Kafka server.properties`
    java                  link to the Java that it was prepared with
    installed             what all this was made from; written last

A second run does nothing. `--lock 4.4.0` writes the lock file for another version (needs Maven).
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
LOCK = SCRIPTS / "kafka_jars.lock"
REPOSITORY = "https://repo.maven.apache.org/maven2/"
OLDEST_JAVA = 17
# Kafka logs through slf4j; its own distribution adds a binding of log4j with files of settings.
BINDING = "slf4j-simple"

# Any will do; a test's node uses the same.
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"

N_DOWNLOADS = 8
TRY_AGAIN_AFTER_S = (1.0, 3.0, 9.0, 20.0)
DOWNLOAD_TIMEOUT_S = 60.0
START_TIMEOUT_S = 120.0

# Small and quick to start: a test's node lives for seconds. Errors of the JVM go where Kafka logs.
JVM_OPTIONS = (
    "-Xms32m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
    "-Xlog:disable", "-Xlog:all=error:stderr", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)  # fmt: skip


def say(line: str) -> None:
    """Tell the user, on standard error."""
    sys.stderr.write(line + "\n")


def read_lock() -> dict[str, str]:
    """SHA-256 by path in the repository."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#"))
    return {path: digest for digest, path in lines}


def kafka_version(jars: dict[str, str]) -> str:
    """The version that the lock file names."""
    return next(path.split("/")[-2] for path in jars if "/kafka_2.13/" in path)


def java_version(java: Path) -> int:
    """Major version; 0 where it does not run."""
    release = java.resolve().parents[1] / "release"
    text = release.read_text() if release.exists() else ""
    if not (found := re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', text, re.MULTILINE)):
        try:
            told = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
        except (OSError, subprocess.CalledProcessError):
            return 0
        found = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(found.group(1)) if found else 0


def find_java() -> Path | None:
    """JAVA_HOME's, PATH's, or one of Debian's, if new enough."""
    candidates = [Path(os.environ["JAVA_HOME"], "bin/java")] if os.environ.get("JAVA_HOME") else []
    candidates += [Path(path)] if (path := shutil.which("java")) else []
    candidates += sorted(Path("/usr/lib/jvm").glob("*/bin/java"))
    for java in candidates:
        if java.exists() and java_version(java) >= OLDEST_JAVA:
            return java.resolve()
    return None


def install_java() -> Path:
    """Debian's default Java, without what draws windows."""
    wanted = f"Apache Kafka needs Java {OLDEST_JAVA} or newer"
    if not shutil.which("apt-get"):
        raise SystemExit(f"{wanted} and there is no apt-get here: install one yourself, or set JAVA_HOME")
    say("Installing for the tests: default-jre-headless")
    as_root = str(SCRIPTS / "as_root")
    quiet = {"stdout": subprocess.DEVNULL}
    subprocess.run([as_root, "apt-get", "update", "-qq"], check=True, **quiet)
    subprocess.run(
        [as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq",
         "--no-install-recommends", "default-jre-headless"], check=True, **quiet,
    )  # fmt: skip
    if (java := find_java()) is None:
        raise SystemExit(f"{wanted}; Debian's default-jre-headless is older: install one, and set JAVA_HOME")
    return java


def trusted() -> ssl.SSLContext:
    """The system's certificates, or those that pip is told to use."""
    return ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)


def download(path: str, digest: str, target: Path, context: ssl.SSLContext) -> int:
    """Fetch one jar, check it, and only then give it its name. Returns its size in bytes."""
    for pause_s in (*TRY_AGAIN_AFTER_S, None):
        try:
            with urllib.request.urlopen(
                REPOSITORY + path, timeout=DOWNLOAD_TIMEOUT_S, context=context
            ) as answer:
                content = answer.read()
            if (found := hashlib.sha256(content).hexdigest()) != digest:
                raise OSError(f"its SHA-256 is {found}, {LOCK.name} says {digest}")
            break
        except (OSError, http.client.HTTPException) as error:
            if pause_s is None:
                raise SystemExit(f"{REPOSITORY}{path} could not be had: {error}") from error
            time.sleep(pause_s)
    write(target, content)
    return len(content)


def write(target: Path, content: bytes) -> None:
    """Write a file in one step, so that another process sees all of it or none."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as part:
        part.write(content)
    Path(part.name).chmod(0o644)
    Path(part.name).replace(target)


def is_there(target: Path, digest: str) -> bool:
    """Whether the file has the content wanted."""
    return target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == digest


def fetch(jars: dict[str, str], directory: Path) -> None:
    """Bring the directory to what the lock file says."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = {directory / path.rsplit("/", 1)[1]: (path, digest) for path, digest in jars.items()}
    for other in set(directory.iterdir()) - set(wanted):
        other.unlink()
    missing = {target: jar for target, jar in wanted.items() if not is_there(target, jar[1])}
    if not missing:
        return
    say(f"Downloading Apache Kafka {kafka_version(jars)} ({len(missing)} jars from Maven Central)")
    started_at = time.monotonic()
    context = trusted()
    with ThreadPoolExecutor(N_DOWNLOADS) as pool:
        running = [pool.submit(download, *jar, target, context) for target, jar in missing.items()]
        size_bytes = sum(one.result() for one in running)
    say(f"{size_bytes / 1e6:.0f} MB in {time.monotonic() - started_at:.1f} s")


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare(java: Path, home: Path) -> None:
    """Format a data directory and run a node on it once, to keep what each later start would make again."""
    say("Preparing Apache Kafka to start quickly")
    classpath = ":".join(str(jar) for jar in sorted((home / "jars").iterdir()))
    options = [*JVM_OPTIONS, "-cp", classpath]
    with tempfile.TemporaryDirectory(prefix="kafka-prepare-", dir=home) as name:
        scratch = Path(name)
        broker, controller = free_port(), free_port()
        properties = scratch / "server.properties"
        properties.write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n"
            f"listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{broker}\nlog.dirs={scratch}/data\n"
        )
        with (scratch / "log").open("wb") as log:
            output = {"stdout": log, "stderr": subprocess.STDOUT}
            archive = scratch / "classes.jsa"
            try:
                subprocess.run(
                    [java, *options, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", properties],
                    check=True, **output,
                )  # fmt: skip
                (checkpoint,) = (scratch / "data" / "__cluster_metadata-0").glob("*.checkpoint")
                formatted = checkpoint.read_bytes()
                run_once([java, *options, f"-XX:ArchiveClassesAtExit={archive}", "kafka.Kafka", properties],
                         broker, output)  # fmt: skip
            except (OSError, subprocess.SubprocessError) as error:
                told = (scratch / "log").read_text()[-4_000:]
                raise SystemExit(f"Apache Kafka did not start with {java}: {error}\n{told}") from error
        archive.replace(home / "classes.jsa")
        write(home / "bootstrap.checkpoint", formatted)
    arguments = [*options, f"-XX:SharedArchiveFile={home / 'classes.jsa'}", "-Xshare:auto"]
    quoted = ('"' + argument.replace("\\", "\\\\").replace('"', '\\"') + '"' for argument in arguments)
    write(home / "jvm.args", "\n".join(quoted).encode() + b"\n")
    link = home / f"java.{os.getpid()}"
    link.symlink_to(java)
    link.replace(home / "java")


def run_once(command: list[str | Path], port: int, output: dict[str, Any]) -> None:
    """Start a node, and stop it as soon as it takes connections."""
    node = subprocess.Popen(command, **output)
    try:
        wait_for_port(port, node)
        node.send_signal(signal.SIGTERM)
        node.wait(START_TIMEOUT_S)
    finally:
        node.kill()
        node.wait()


def wait_for_port(port: int, node: subprocess.Popen[bytes]) -> None:
    """Until the node takes connections. Raises OSError when it ends, or time runs out, before that."""
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if node.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def write_lock(version: str) -> None:
    """Ask Maven what a version needs at run time."""
    with tempfile.TemporaryDirectory() as name:
        jars = Path(name, "jars")
        kafka = f"org.apache.kafka:kafka_2.13:{version}"
        copy_with_maven(jars, kafka)
        (slf4j,) = (jar.parent.name for jar in jars.rglob("slf4j-api-*.jar"))
        copy_with_maven(jars, kafka, f"org.slf4j:{BINDING}:{slf4j}")
        lines = [
            f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.relative_to(jars)}"
            for jar in sorted(jars.rglob("*.jar"))
        ]
    head = f"# Apache Kafka {version} and what it needs to run. Written by scripts/install_kafka --lock {version}"
    LOCK.write_text("\n".join([head, *lines]) + "\n")


def copy_with_maven(directory: Path, *dependencies: str) -> None:
    """Copy the dependencies, and theirs, into a directory laid out as the repository is."""
    wanted = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, artifact, version in (one.split(":") for one in dependencies)
    )
    pom = directory.parent / "pom.xml"
    pom.write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>lock</groupId><artifactId>lock</artifactId><version>1</version>"
        f"<dependencies>{wanted}</dependencies></project>"
    )
    subprocess.run(
        ["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", "-DincludeScope=runtime",
         "-Dmdep.useRepositoryLayout=true", f"-DoutputDirectory={directory}"], check=True,
    )  # fmt: skip


def main() -> None:
    """Install, or write the lock file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lock", metavar="VERSION", help="write the lock file for this version, and end")
    if (version := parser.parse_args().lock) is not None:
        write_lock(version)
        return
    jars = read_lock()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = (cache / "pynomaly" / f"kafka-{kafka_version(jars)}").absolute()
    java = find_java() or install_java()
    # An archive of classes is good for one build of Java and one list of jars at one place.
    made_from = hashlib.sha256(LOCK.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    made_from += f"\n{java} {java.stat().st_mtime_ns}\n{home}\n"
    stamp = home / "installed"
    if stamp.exists() and stamp.read_text() == made_from:
        return
    fetch(jars, home / "jars")
    prepare(java, home)
    write(stamp, made_from.encode())


if __name__ == "__main__":
    main()

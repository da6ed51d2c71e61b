"""Real Apache Kafka on one machine without Docker: one KRaft node on Java, its jars fetched by Maven.

    python -m deploy.local.kafka lock      # after a version change in deploy/kafka/pom.xml

The jars lie in `.cache/kafka-<version>/` and are checked against `deploy/kafka/jars.sha256` before every start. Data is
in the folder given; it keeps its cluster id, so a second run continues with the same log.
"""

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from deploy.kafka.access import ADMIN
from deploy.kafka.certificates import AUTHORITY, SERVER, make_certificates
from deploy.kafka.server import Listener, Security, cluster_id, format_arguments
from deploy.kafka.server import properties as server_properties
from deploy.local.supervisor import PROJECT, Program, StartFailed, port_open
from shared.messaging.broker import BrokerAddress

DEFINITION = PROJECT / "deploy" / "kafka"
LOCK = DEFINITION / "jars.sha256"
OLDEST_JAVA = 17
JVM_OPTIONS = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
LOG_OPTIONS = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=off",
)
FETCH_SECONDS = 900
FORMAT_SECONDS = 60
READY_SECONDS = 90.0
STOP_SECONDS = 20.0


def version() -> str:
    """The Kafka version that the pom pins."""
    found = re.search(r"<kafka\.version>([\d.]+)</kafka\.version>", (DEFINITION / "pom.xml").read_text("utf-8"))
    if not found:
        raise StartFailed(f"{DEFINITION / 'pom.xml'} names no kafka.version")
    return found[1]


def java() -> str:
    """The path of a Java that is new enough. Raises `StartFailed` with what to do."""
    home = os.environ.get("JAVA_HOME")
    path = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    advice = f"BROKER=kafka needs Java {OLDEST_JAVA} or newer; BROKER=embedded (the default) needs none"
    if not path:
        raise StartFailed(f"no java found. {advice}")
    shown = _run([path, "-version"], FORMAT_SECONDS).stdout
    found = re.search(r'version "(\d+)', shown)
    if not found or int(found[1]) < OLDEST_JAVA:
        raise StartFailed(f"{path} is {shown.splitlines()[0] if shown else 'not working'}. {advice}")
    return path


def jars(cache: Path) -> Path:
    """The folder with the verified jars, fetched by Maven if it is not there yet."""
    folder = cache / f"kafka-{version()}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=_made(cache), prefix="kafka-") as scratch:
            fetched = fetch(Path(scratch) / "jars")
            verify(fetched)
            fetched.rename(folder)
    verify(folder)
    return folder


def fetch(folder: Path) -> Path:
    """Let Maven put the jars into the folder, from whatever repository it is set up to use."""
    maven = shutil.which("mvn")
    if not maven:
        raise StartFailed("no mvn found: BROKER=kafka fetches Kafka's jars with Apache Maven, once")
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    result = _run([maven, "--quiet", "--batch-mode", "--file", str(DEFINITION / "pom.xml"), *goal], FETCH_SECONDS)
    if result.returncode != 0:
        raise StartFailed(f"Maven could not fetch Kafka {version()}:\n{result.stdout}")
    return folder


def digests(folder: Path) -> dict[str, str]:
    """File name to SHA-256 of every jar in the folder."""
    return {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in sorted(folder.glob("*.jar"))}


def verify(folder: Path) -> None:
    """Raises `StartFailed` unless the folder holds exactly the locked jars."""
    pairs = (line.split("  ") for line in LOCK.read_text(encoding="ascii").splitlines())
    locked = {name: digest for digest, name in pairs}
    found = digests(folder)
    wrong = sorted(name for name in locked.keys() | found.keys() if locked.get(name) != found.get(name))
    if wrong:
        raise StartFailed(f"jars in {folder} are not those of {LOCK}: {', '.join(wrong)}. Delete the folder, try again")


def prepare(
    data: Path, port: int, cache: Path, admin_password: str | None = None, advertised_port: int | None = None
) -> Program:
    """Write the configuration, format the data folder if it is new, and return the program to run.

    The controller listens on `port` + 1; clients are told to come to `advertised_port` (default: `port`). With a
    password for the super user the broker takes SASL_SSL only; the authority's certificate for clients is
    `tls/ca.pem` in the data folder.
    """
    runtime = (java(), *JVM_OPTIONS, *LOG_OPTIONS, "-cp", str(jars(cache) / "*"))
    data = _made(data.resolve())
    properties = data / "server.properties"
    bootstrap = f"127.0.0.1:{port}"
    broker, security = BrokerAddress(bootstrap), None
    if admin_password is not None:
        tls = data / "tls"
        make_certificates(tls, ["127.0.0.1", "localhost"])
        security = Security(admin_password, str(tls / SERVER), str(tls / AUTHORITY))
        broker = BrokerAddress(bootstrap, "SASL_SSL", ADMIN, admin_password, ca_file=tls / AUTHORITY)
    listener = Listener("CLIENTS", bootstrap, f"127.0.0.1:{advertised_port or port}")
    _write_private(properties, server_properties([listener], port + 1, str(data / "log"), security))
    identity = data / "cluster.id"
    if not identity.exists():
        identity.write_text(cluster_id() + "\n", encoding="ascii")
    if not (data / "log" / "meta.properties").exists():
        arguments = data / "format.arguments"
        _write_private(
            arguments, format_arguments(identity.read_text(encoding="ascii").strip(), str(properties), security)
        )
        result = _run([*runtime, "kafka.tools.StorageTool", f"@{arguments}"], FORMAT_SECONDS)
        arguments.unlink()
        if result.returncode != 0:
            raise StartFailed(f"Kafka could not format {data}:\n{result.stdout}")
    return Program(
        name="kafka",
        command=(*runtime, "kafka.Kafka", str(properties)),
        environment={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"},
        ready=lambda: answers(broker),
        ready_seconds=READY_SECONDS,
        stop_seconds=STOP_SECONDS,
    )


async def answers(broker: BrokerAddress) -> bool:
    """Whether the broker answers a metadata request."""
    host, _, port = broker.bootstrap_servers.rpartition(":")
    if not await port_open(host, int(port)):
        return False
    client = AIOKafkaClient(**broker.options(), request_timeout_ms=2_000)
    try:
        async with asyncio.timeout(5):
            await client.bootstrap()
            return bool(client.cluster.brokers())
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await client.close()


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(words: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )


def lock() -> None:
    """Fetch the pinned version and write the lock file from it."""
    with tempfile.TemporaryDirectory() as scratch:
        found = digests(fetch(Path(scratch) / "jars"))
    LOCK.write_text("".join(f"{digest}  {name}\n" for name, digest in found.items()), encoding="ascii")
    print(f"{len(found)} jars locked in {LOCK}")


if __name__ == "__main__":
    if sys.argv[1:] != ["lock"]:
        sys.exit("usage: python -m deploy.local.kafka lock")
    lock()

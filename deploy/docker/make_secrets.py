"""Make the secret files that docker-compose.yml mounts. Safe to run again: what is there stays as it is.

    python -m deploy.docker.make_secrets
    python -m deploy.docker.make_secrets --add branch:jinan --name "Jinan night desk"

Kafka's passwords stand in `kafka_passwords`; the files of the single users and of the broker are made from it and from
GONGDAN_KAFKA_HOST at every run. The authority's key is in `authority/` and is mounted nowhere.

API keys are printed once, when they are made; only their hashes are kept. Their file stands in a folder of its own,
which the services mount, so that a changed key counts without a restart. The folder of all secrets is closed to other
users (0700); what is in it is readable, because a container reads it under another user id.
"""

import argparse
import base64
import json
import os
import secrets
import sys
from pathlib import Path

from deploy.kafka.access import ADMIN, TOPICS, service_principal, with_missing
from deploy.kafka.certificates import AUTHORITY, SERVER, make_certificates
from deploy.kafka.server import Listener, Security, client_properties, cluster_id, format_arguments, properties
from shared.http.keys import KeyRecord, KeyRefused, Role, add_key, edited_records, generate_key, save_records
from shared.policy.loader import load_pack

SERVICES = ("intake", "review", "dispatch", "sla")
FOLDER = Path(__file__).with_name("secrets")
KEYS = Path("keys") / "keys.json"
DATABASE_HOST = "postgres:5432"
KAFKA_HOST = "kafka"
KAFKA_DATA = "/var/lib/kafka/data"
MOUNT = "/run/secrets"
READABLE = 0o444
ENTERABLE = 0o755


def random_key() -> str:
    """Base64 of 32 random bytes."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def database_url(service: str) -> str:
    name = f"gongdan_{service}"
    return f"postgresql+asyncpg://{name}:{secrets.token_urlsafe(24)}@{DATABASE_HOST}/{name}"


def make_files(folder: Path) -> list[str]:
    """Make the folders, and the files that are missing except the API keys; returns the names of these files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / KEYS).parent.mkdir(exist_ok=True)
    (folder / KEYS).parent.chmod(ENTERABLE)
    if (former := folder / KEYS.name).exists() and not (folder / KEYS).exists():
        # The first version kept the file beside the others; its keys stay good.
        former.replace(folder / KEYS)
    wanted = {
        "postgres_password": secrets.token_urlsafe(24),
        "data_key": random_key(),
        "index_key": random_key(),
        "reply_key": random_key(),
        **{f"{service}_database_url": database_url(service) for service in SERVICES},
    }
    missing = [name for name in wanted if not (folder / name).exists()]
    for name in missing:
        (folder / name).write_text(wanted[name] + "\n", encoding="utf-8")
        (folder / name).chmod(READABLE)
    return missing


def make_kafka_files(folder: Path, branches: list[str], host: str) -> list[str]:
    """Passwords, certificates and the broker's files; returns the names of those that are new or changed.

    `host` is the name or address by which branches reach the broker.
    """
    stored = folder / "kafka_passwords"
    passwords = with_missing(json.loads(stored.read_text("utf-8")) if stored.exists() else {}, branches)
    authority = folder / "authority"
    make_certificates(authority, [KAFKA_HOST, "localhost", "127.0.0.1", host])
    security = Security(passwords[ADMIN], f"{MOUNT}/kafka_tls", f"{MOUNT}/kafka_ca")
    inside = Listener("INSIDE", ":9092", f"{KAFKA_HOST}:9092")
    outside = Listener("OUTSIDE", ":19092", f"{host}:19092")
    own = {service: service_principal(service) for service in SERVICES} | {"admin": ADMIN, "topics": TOPICS}
    wanted = {
        "kafka_passwords": json.dumps(passwords, indent=2) + "\n",
        "kafka_ca": (authority / AUTHORITY).read_text(encoding="ascii"),
        "kafka_tls": (authority / SERVER).read_text(encoding="ascii"),
        "kafka_server": properties([inside, outside], 9093, KAFKA_DATA, security),
        "kafka_client": client_properties(security),
        **{f"kafka_{name}_password": passwords[principal] + "\n" for name, principal in own.items()},
    }
    if not (folder / "kafka_format").exists():
        wanted["kafka_format"] = format_arguments(cluster_id(), f"{MOUNT}/kafka_server", security)
    changed = [name for name, text in wanted.items() if _content(folder / name) != text]
    for name in changed:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(wanted[name], encoding="utf-8")
        (folder / name).chmod(READABLE)
    return changed


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def make_keys(folder: Path, branches: list[str]) -> dict[str, str]:
    """One API key for each role and each branch, if there is no key file yet; returns the keys by whom they are for."""
    if (folder / KEYS).exists():
        return {}
    wanted: list[tuple[Role, str | None]] = [(role, None) for role in Role if role is not Role.branch]
    wanted += [(Role.branch, branch) for branch in branches]
    made: dict[str, str] = {}
    records: list[KeyRecord] = []
    for role, scope in wanted:
        owner = f"{role}:{scope}" if scope else str(role)
        made[owner], record = generate_key(role, owner, scope)
        records.append(record)
    save_records(folder / KEYS, records)
    return made


def add(folder: Path, owner: str, name: str) -> str:
    """Add a key for `<role>` or `<role>:<scope>`. Raises `ValueError` for no such role, `KeyRefused` as `add_key`."""
    role, _, scope = owner.partition(":")
    with edited_records(folder / KEYS) as records:
        return add_key(records, Role(role), name, scope or None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.docker.make_secrets", description="Make secret files.")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--pack", default="mobile_operator", help="policy pack whose branches get a key each")
    parser.add_argument(
        "--kafka-host",
        default=os.environ.get("GONGDAN_KAFKA_HOST") or "127.0.0.1",
        help="name or address by which branches reach Kafka (GONGDAN_KAFKA_HOST)",
    )
    parser.add_argument("--add", metavar="ROLE[:SCOPE]", help="add one API key")
    parser.add_argument("--name", help="whose key it is, for the list of keys")
    arguments = parser.parse_args()
    branches = [branch.id for branch in load_pack(arguments.pack).branches]
    for name in [*make_files(arguments.folder), *make_kafka_files(arguments.folder, branches, arguments.kafka_host)]:
        print(f"made {name}", file=sys.stderr)
    keys = make_keys(arguments.folder, branches)
    (arguments.folder / KEYS).chmod(READABLE)
    if keys:
        print("API keys, shown once (Authorization: Bearer …):", file=sys.stderr)
    for owner, key in keys.items():
        print(f"{owner:<20} {key}")
    if arguments.add:
        try:
            print(add(arguments.folder, arguments.add, arguments.name or arguments.add))
        except (ValueError, KeyRefused) as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()

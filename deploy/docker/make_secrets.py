"""Make the secret files that docker-compose.yml mounts. Safe to run again: what is there stays as it is.

    python -m deploy.docker.make_secrets
    python -m deploy.docker.make_secrets --add branch:jinan --name "Jinan night desk"
    docker compose restart intake review dispatch sla      # a mounted secret is read anew at the start only

API keys are printed once, when they are made; only their hashes are kept. The folder is closed to other users (0700);
the files in it are readable, because a container reads them under another user id.
"""

import argparse
import base64
import secrets
import sys
from pathlib import Path

from shared.http.keys import KeyRecord, Role, generate_key, load_records, save_records
from shared.policy.loader import load_pack

SERVICES = ("intake", "review", "dispatch", "sla")
FOLDER = Path(__file__).with_name("secrets")
KEYS = "keys.json"
DATABASE_HOST = "postgres:5432"
READABLE = 0o444


def random_key() -> str:
    """Base64 of 32 random bytes."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def database_url(service: str) -> str:
    name = f"gongdan_{service}"
    return f"postgresql+asyncpg://{name}:{secrets.token_urlsafe(24)}@{DATABASE_HOST}/{name}"


def make_files(folder: Path) -> list[str]:
    """Make the files that are missing, except the API keys; returns their names."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    wanted = {
        "postgres_password": secrets.token_urlsafe(24),
        "data_key": random_key(),
        "index_key": random_key(),
        **{f"{service}_database_url": database_url(service) for service in SERVICES},
    }
    missing = [name for name in wanted if not (folder / name).exists()]
    for name in missing:
        (folder / name).write_text(wanted[name] + "\n", encoding="utf-8")
        (folder / name).chmod(READABLE)
    return missing


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
    _save(folder, records)
    return made


def add_key(folder: Path, owner: str, name: str) -> str:
    """Add a key for `<role>` or `<role>:<scope>`. Raises `ValueError`: no such role, or a branch without its id."""
    role_name, _, scope = owner.partition(":")
    role = Role(role_name)
    if role is Role.branch and not scope:
        raise ValueError("a branch key needs its branch: branch:<id>")
    key, record = generate_key(role, name, scope or None)
    _save(folder, [*load_records(folder / KEYS), record])
    return key


def _save(folder: Path, records: list[KeyRecord]) -> None:
    save_records(folder / KEYS, records)
    (folder / KEYS).chmod(READABLE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.docker.make_secrets", description="Make secret files.")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--pack", default="mobile_operator", help="policy pack whose branches get a key each")
    parser.add_argument("--add", metavar="ROLE[:SCOPE]", help="add one API key; then restart the services")
    parser.add_argument("--name", help="whose key it is, for the list of keys")
    arguments = parser.parse_args()
    for name in make_files(arguments.folder):
        print(f"made {name}", file=sys.stderr)
    keys = make_keys(arguments.folder, [branch.id for branch in load_pack(arguments.pack).branches])
    # Another tool that changed it (shared.http.keys) leaves it closed to the containers.
    (arguments.folder / KEYS).chmod(READABLE)
    if keys:
        print("API keys, shown once (Authorization: Bearer …):", file=sys.stderr)
    for owner, key in keys.items():
        print(f"{owner:<20} {key}")
    if arguments.add:
        try:
            print(add_key(arguments.folder, arguments.add, arguments.name or arguments.add))
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()

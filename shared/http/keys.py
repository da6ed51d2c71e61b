"""API keys: made once, shown once, kept only as a hash in one JSON file that every service reads.

    python -m shared.http.keys add --file keys.json --role branch --scope jinan --name "Jinan desk"
    python -m shared.http.keys revoke --file keys.json --key-id k_3f2a91

A key is `gd_<key id>_<secret>`; the secret has 192 random bits, so a plain SHA-256 is a safe hash for it.
The file is read again when it changes, so that a new or revoked key counts within a second, without a restart.
"""

import argparse
import hashlib
import hmac
import os
import secrets
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

RECHECK_SECONDS = 1.0


class Role(StrEnum):
    front_line = "front_line"
    reviewer = "reviewer"
    branch = "branch"
    callback = "callback"
    supervisor = "supervisor"
    ops = "ops"


class KeyRecord(BaseModel):
    """One key as stored. `scope` is the branch id for a branch, the channel for a front line (none: every channel)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: str
    sha256: str
    role: Role
    name: str
    scope: str | None = None
    created_at: datetime
    revoked_at: datetime | None = None


_RECORDS = TypeAdapter(list[KeyRecord])


def generate_key(role: Role, name: str, scope: str | None = None) -> tuple[str, KeyRecord]:
    """A new key: the text for its owner, and the record to store. `created_at` is UTC."""
    key_id = "k" + secrets.token_hex(4)
    key = f"gd_{key_id}_{secrets.token_urlsafe(24)}"
    record = KeyRecord(
        key_id=key_id,
        sha256=hashlib.sha256(key.encode()).hexdigest(),
        role=role,
        name=name,
        scope=scope,
        created_at=datetime.now(UTC),
    )
    return key, record


def load_records(path: Path) -> list[KeyRecord]:
    return _RECORDS.validate_json(path.read_bytes()) if path.exists() else []


def save_records(path: Path, records: list[KeyRecord]) -> None:
    """Replace the file in one step, readable by its owner only."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_RECORDS.dump_json(records, indent=2))
    temporary.replace(path)


class KeyStore:
    """The live keys of one file. Raises `FileNotFoundError` when the file is not there at the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = -1
        self._checked = 0.0
        self._by_id: dict[str, KeyRecord] = {}
        self._reload()

    def find(self, key: str) -> KeyRecord | None:
        """The record of a presented key, or None when it is unknown, altered or revoked."""
        if time.monotonic() - self._checked > RECHECK_SECONDS:
            self._reload()
        _, _, rest = key.partition("_")
        record = self._by_id.get(rest.partition("_")[0])
        if record is None or record.revoked_at is not None or (record.role is Role.branch and not record.scope):
            return None
        digest = hashlib.sha256(key.encode()).hexdigest()
        return record if hmac.compare_digest(digest, record.sha256) else None

    def records(self) -> list[KeyRecord]:
        """Every key of the file, revoked ones too, as last read."""
        return list(self._by_id.values())

    def _reload(self) -> None:
        self._checked = time.monotonic()
        stamp = self._path.stat().st_mtime_ns
        if stamp != self._stamp:
            self._by_id = {record.key_id: record for record in load_records(self._path)}
            self._stamp = stamp


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shared.http.keys", description="Make and revoke API keys.")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key; it is printed once")
    add.add_argument("--file", type=Path, required=True)
    add.add_argument("--role", type=Role, choices=list(Role), required=True)
    add.add_argument("--name", required=True)
    add.add_argument("--scope", help="branch id for a branch, channel for a front line")
    revoke = commands.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("--file", type=Path, required=True)
    revoke.add_argument("--key-id", required=True)
    listing = commands.add_parser("list", help="show the keys, without their secrets")
    listing.add_argument("--file", type=Path, required=True)
    arguments = parser.parse_args()

    records = load_records(arguments.file)
    if arguments.command == "add":
        if arguments.role is Role.branch and not arguments.scope:
            parser.error("a branch key needs --scope <branch id>")
        key, record = generate_key(arguments.role, arguments.name, arguments.scope)
        save_records(arguments.file, [*records, record])
        print(key)
    elif arguments.command == "revoke":
        if all(record.key_id != arguments.key_id for record in records):
            parser.error(f"no key {arguments.key_id} in {arguments.file}")
        now = datetime.now(UTC)
        save_records(
            arguments.file,
            [r.model_copy(update={"revoked_at": now}) if r.key_id == arguments.key_id else r for r in records],
        )
    else:
        for record in records:
            state = "revoked" if record.revoked_at else "live"
            print(f"{record.key_id}  {record.role:<10}  {record.scope or '-':<12}  {state:<7}  {record.name}")


if __name__ == "__main__":
    main()

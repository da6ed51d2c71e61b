"""API keys: made once, shown once, kept only as a hash in one JSON file that every service reads.

    python -m shared.http.keys add --file keys.json --role branch --scope jinan --name "Jinan desk"
    python -m shared.http.keys rotate --file keys.json --key-id k3f2a91c0 --overlap-hours 24
    python -m shared.http.keys revoke --file keys.json --key-id k3f2a91c0
    python -m shared.http.keys list --file keys.json --last-used-from http://127.0.0.1:8001

A key is `gd_<key id>_<secret>`; the secret has 192 random bits, so a plain SHA-256 is a safe hash for it. All keys of
one owner carry the same `client`, of which at most two are live: the one in use, and the one that replaces it.
"""

import argparse
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from shared.failpoints import reach

LIVE_KEYS_A_CLIENT = 2
ASK_SECONDS = 10.0
OPS_KEY_VARIABLE = "GONGDAN_OPS_KEY"

_CLIENT = re.compile(r"[A-Za-z0-9._\-]{1,64}")


class Role(StrEnum):
    front_line = "front_line"
    reviewer = "reviewer"
    branch = "branch"
    callback = "callback"
    supervisor = "supervisor"
    ops = "ops"


class KeyState(StrEnum):
    live = "live"
    expired = "expired"
    revoked = "revoked"


class KeyRefused(Exception):
    """The change would break a rule about keys; its text says which."""


class KeyRecord(BaseModel):
    """One key as stored. `scope` is the branch id for a branch, the channel for a front line (none: every channel).

    `client` is the owner; a key that names none is its own. Times are of the real clock, written with their offset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: str
    sha256: str
    role: Role
    name: str
    scope: str | None = None
    client: str = Field(default_factory=lambda values: values["key_id"])
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def state(self, now: datetime) -> KeyState:
        if self.revoked_at is not None:
            return KeyState.revoked
        return KeyState.expired if self.expires_at is not None and self.expires_at <= now else KeyState.live


_RECORDS = TypeAdapter(list[KeyRecord])


def generate_key(
    role: Role, name: str, scope: str | None = None, *, client: str | None = None, expires_at: datetime | None = None
) -> tuple[str, KeyRecord]:
    """A new key: the text for its owner, and the record to store. `created_at` is UTC."""
    key_id = "k" + secrets.token_hex(4)
    key = f"gd_{key_id}_{secrets.token_urlsafe(24)}"
    record = KeyRecord(
        key_id=key_id,
        sha256=hashlib.sha256(key.encode()).hexdigest(),
        role=role,
        name=name,
        scope=scope,
        client=client or key_id,
        created_at=datetime.now(UTC),
        expires_at=expires_at,
    )
    return key, record


# ---- the file --------------------------------------------------------------------------------------------------------


def parse_records(content: bytes) -> list[KeyRecord]:
    """Raises `ValueError` when it is no list of keys, or names a key twice."""
    records = _RECORDS.validate_json(content)
    if len({record.key_id for record in records}) != len(records):
        raise ValueError("a key id stands in the file twice")
    return records


def load_records(path: Path) -> list[KeyRecord]:
    return parse_records(path.read_bytes()) if path.exists() else []


def save_records(path: Path, records: list[KeyRecord]) -> None:
    """Replace the file in one step, on disk before it counts. A new file is readable by its owner only."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_RECORDS.dump_json(records, indent=2))
        file.flush()
        os.fsync(descriptor)
        os.fchmod(descriptor, mode)
    reach("keys.file_written")
    temporary.replace(path)


@contextmanager
def edited_records(path: Path) -> Iterator[list[KeyRecord]]:
    """The records, to be changed in place; stored when the block ends. A second writer waits for the first."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        records = load_records(path)
        before = list(records)
        yield records
        if records != before:
            save_records(path, records)
    finally:
        os.close(folder)


# ---- changes ---------------------------------------------------------------------------------------------------------


def add_key(
    records: list[KeyRecord],
    role: Role,
    name: str,
    scope: str | None = None,
    client: str | None = None,
    expires_at: AwareDatetime | None = None,
) -> str:
    """Append a new key and give its text. Raises `KeyRefused`."""
    if role is Role.branch and not scope:
        raise KeyRefused("a branch key needs its branch as scope")
    if client is not None and _CLIENT.fullmatch(client) is None:
        raise KeyRefused("a client is named by up to 64 letters, digits, dots, dashes and underscores")
    now = datetime.now(UTC)
    siblings = [record for record in records if record.client == client]
    if any((record.role, record.scope) != (role, scope) for record in siblings):
        raise KeyRefused(f"the keys of the client {client} have another role or scope")
    live = [record.key_id for record in siblings if record.state(now) is KeyState.live]
    if len(live) >= LIVE_KEYS_A_CLIENT:
        raise KeyRefused(f"the client {client} has {len(live)} live keys ({', '.join(live)}): revoke one first")
    key, record = generate_key(role, name, scope, client=client, expires_at=expires_at)
    records.append(record)
    return key


def rotate_key(
    records: list[KeyRecord], key_id: str, overlap: timedelta = timedelta(hours=24), expires_at: datetime | None = None
) -> str:
    """A second key for the same client; the first one counts for the overlap only. Raises `KeyRefused`."""
    index = _index(records, key_id)
    old, now = records[index], datetime.now(UTC)
    if (state := old.state(now)) is not KeyState.live:
        raise KeyRefused(f"{key_id} is {state}: add a key with --client {old.client} instead")
    key = add_key(records, old.role, old.name, old.scope, old.client, expires_at)
    end = now + overlap
    records[index] = old.model_copy(update={"expires_at": min(end, old.expires_at or end)})
    return key


def revoke_key(records: list[KeyRecord], key_id: str) -> None:
    """Refuse it from now on. Raises `KeyRefused` when there is no such key."""
    index = _index(records, key_id)
    if records[index].revoked_at is None:
        records[index] = records[index].model_copy(update={"revoked_at": datetime.now(UTC)})


def _index(records: list[KeyRecord], key_id: str) -> int:
    for index, record in enumerate(records):
        if record.key_id == key_id:
            return index
    raise KeyRefused(f"there is no key {key_id} in the file")


# ---- the command -----------------------------------------------------------------------------------------------------


def last_uses(urls: list[str]) -> dict[str, datetime]:
    """The last use of each key at these services. Raises `KeyRefused` when one of them does not tell."""
    key = os.environ.get(OPS_KEY_VARIABLE)
    if not key:
        raise KeyRefused(f"{OPS_KEY_VARIABLE} must hold a key of the role ops to ask the services")
    found: dict[str, datetime] = {}
    for url in urls:
        try:
            answer = httpx.get(
                f"{url.rstrip('/')}/v1/ops/keys", headers={"Authorization": f"Bearer {key}"}, timeout=ASK_SECONDS
            )
            answer.raise_for_status()
            used = {item["key_id"]: item["last_used_at"] for item in answer.json()["items"] if item["last_used_at"]}
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise KeyRefused(f"{url} does not tell: {error}") from error
        for key_id, text in used.items():
            moment = datetime.fromisoformat(text)
            found[key_id] = max(moment, found.get(key_id, moment))
    return found


def print_records(records: list[KeyRecord], used: dict[str, datetime] | None) -> None:
    now = datetime.now(UTC)
    rows = [("key id", "client", "role", "scope", "state", "created", "expires", "last used", "name")]
    rows += [
        (
            record.key_id,
            record.client,
            str(record.role),
            record.scope or "-",
            str(record.state(now)),
            _short(record.created_at),
            _short(record.expires_at),
            "?" if used is None else _short(used.get(record.key_id)),
            record.name,
        )
        for record in records
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _short(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m shared.http.keys", description="Make, replace and revoke API keys.")
    commands = top.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key; it is printed once")
    add.add_argument("--role", type=Role, choices=list(Role), required=True)
    add.add_argument("--name", required=True)
    add.add_argument("--scope", help="branch id for a branch, channel for a front line")
    add.add_argument("--client", help="whose key it is, if its owner has another one (default: an owner of its own)")
    rotate = commands.add_parser("rotate", help="make the successor of a key, which then ends by itself")
    rotate.add_argument("--key-id", required=True)
    rotate.add_argument("--overlap-hours", type=float, default=24.0, help="how long the old key still counts")
    for each in (add, rotate):
        each.add_argument("--expires-days", type=float, help="the new key ends by itself (default: never)")
    revoke = commands.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("--key-id", required=True)
    listing = commands.add_parser("list", help="show the keys, without their secrets")
    listing.add_argument(
        "--last-used-from", metavar="URL", nargs="+", help=f"ask these services; {OPS_KEY_VARIABLE} holds an ops key"
    )
    for each in (add, rotate, revoke, listing):
        each.add_argument("--file", type=Path, required=True)
    return top


def run(arguments: argparse.Namespace) -> None:
    if arguments.command == "list":
        used = last_uses(arguments.last_used_from) if arguments.last_used_from else None
        print_records(load_records(arguments.file), used)
        return
    ends = None
    if (days := getattr(arguments, "expires_days", None)) is not None:
        ends = datetime.now(UTC) + timedelta(days=days)
    with edited_records(arguments.file) as records:
        if arguments.command == "add":
            key = add_key(records, arguments.role, arguments.name, arguments.scope, arguments.client, ends)
        elif arguments.command == "rotate":
            key = rotate_key(records, arguments.key_id, timedelta(hours=arguments.overlap_hours), ends)
        else:
            revoke_key(records, arguments.key_id)
            key = None
    if key is not None:
        print(key)


def main() -> None:
    top = parser()
    try:
        run(top.parse_args())
    except (KeyRefused, OSError, ValueError, OverflowError) as error:
        top.error(str(error))


if __name__ == "__main__":
    main()

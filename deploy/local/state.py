"""What one data folder remembers between runs: secrets, API keys and the clock.

`secrets.json` holds this machine's passwords and keys in the clear (mode 0600), so that a second run can print the
same keys again. The services read only `keys.json`, which has their hashes.
"""

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict

from deploy.kafka.access import with_missing
from shared.failpoints import reach
from shared.http.keys import KeyRecord, Role, edited_records, generate_key

SERVICES = ("intake", "review", "dispatch", "sla")


class ClockRefused(Exception):
    """The asked time scale would make business time go backwards."""


class BusinessClock(BaseModel):
    """Business time = origin + (real time - origin) * scale; `origin` is a real moment in UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float
    origin: AwareDatetime

    def business(self, real: datetime) -> datetime:
        return self.origin + (real - self.origin) * self.scale


class Secrets(BaseModel):
    """Everything that must not be guessed. `data_key`, `index_key` and `reply_key` are base64 of 32 bytes each.

    `kafka_passwords` (by principal) and `reply_key` count with KAFKA_SECURITY=scram only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    postgres_password: str
    database_passwords: dict[str, str]
    data_key: str
    index_key: str
    keys: dict[Role, str]
    branch_keys: dict[str, str]
    kafka_passwords: dict[str, str]
    reply_key: str


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def load_secrets(folder: Path, branches: Iterable[str]) -> Secrets:
    """The folder's secrets. What is missing, such as the key of a new branch, is made and stored."""
    path = folder / "secrets.json"
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    keys: dict[str, str] = dict(stored.get("keys", {}))
    branch_keys: dict[str, str] = dict(stored.get("branch_keys", {}))
    passwords: dict[str, str] = dict(stored.get("database_passwords", {}))
    for role in Role:
        if role is not Role.branch and role not in keys:
            keys[role.value] = generate_key(role, f"local {role}")[0]
    ids = list(branches)
    for branch in ids:
        if branch not in branch_keys:
            branch_keys[branch] = generate_key(Role.branch, f"local {branch}", branch)[0]
    for service in SERVICES:
        passwords.setdefault(service, secrets.token_urlsafe(24))
    result = Secrets.model_validate(
        {
            "postgres_password": stored.get("postgres_password") or secrets.token_urlsafe(24),
            "database_passwords": passwords,
            "data_key": stored.get("data_key") or _random_key(),
            "index_key": stored.get("index_key") or _random_key(),
            "keys": keys,
            "branch_keys": branch_keys,
            "kafka_passwords": with_missing(stored.get("kafka_passwords", {}), ids),
            "reply_key": stored.get("reply_key") or _random_key(),
        }
    )
    write_private(path, result.model_dump(mode="json"))
    _store_hashes(folder / "keys.json", result)
    return result


def _store_hashes(path: Path, known: Secrets) -> None:
    """Add the records of our keys that the file lacks; records that others added or revoked stay as they are."""
    wanted = [_record(key, role, f"local {role}", None) for role, key in known.keys.items()]
    wanted += [_record(key, Role.branch, f"local {branch}", branch) for branch, key in known.branch_keys.items()]
    with edited_records(path) as records:
        present = {record.key_id for record in records}
        records += [record for record in wanted if record.key_id not in present]


def _record(key: str, role: Role, name: str, scope: str | None) -> KeyRecord:
    return KeyRecord(
        key_id=key.split("_")[1],
        sha256=hashlib.sha256(key.encode()).hexdigest(),
        role=role,
        name=name,
        scope=scope,
        created_at=datetime.now(UTC),
    )


def load_clock(folder: Path, scale: float, real: datetime) -> BusinessClock:
    """The clock for this run, stored for the next. Raises `ClockRefused` when the scale cannot be had."""
    path = folder / "clock.json"
    stored = BusinessClock.model_validate_json(path.read_bytes()) if path.exists() else None
    clock = continue_clock(stored, scale, real)
    write_private(path, clock.model_dump(mode="json"))
    return clock


def continue_clock(stored: BusinessClock | None, scale: float, real: datetime) -> BusinessClock:
    """A clock of this scale on which business time goes on from where the stored one stands at `real`.

    Solves `business = origin + (real - origin) * scale` for the origin. Scale 1 means real time, so it can be had
    only if business time is not ahead.

    Raises:
        ClockRefused: with the remedy in its text.
    """
    if stored is None:
        return BusinessClock(scale=scale, origin=real)
    if stored.scale == scale:
        return stored
    remedy = f"keep TIME_SCALE={stored.scale:g} for this data folder, or choose another one with DATA=…"
    try:
        ahead = stored.business(real) - real
        if scale == 1:
            if ahead > timedelta(0):
                raise ClockRefused(f"business time is {ahead} ahead of the real clock and cannot go back: {remedy}")
            return BusinessClock(scale=scale, origin=real)
        return BusinessClock(scale=scale, origin=real - ahead / (scale - 1))
    except OverflowError:
        raise ClockRefused(f"no calendar date fits a change to TIME_SCALE={scale:g}: {remedy}") from None


def write_private(path: Path, content: object) -> None:
    """Replace a JSON file in one step, on disk before it counts, readable by its owner only."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    reach("state.file_written")
    temporary.replace(path)

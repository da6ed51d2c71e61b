"""API keys: the file, its rules, and how a running service follows it."""

import hmac
import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.http import key_store
from shared.http.key_store import RECHECK_SECONDS, KeyStore
from shared.http.keys import (
    KeyRecord,
    KeyRefused,
    KeyState,
    Role,
    add_key,
    edited_records,
    generate_key,
    load_records,
    revoke_key,
    rotate_key,
    save_records,
)
from shared.http.principal import NotAuthenticated, Reason

HOUR = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC)


def file_with(path: Path, *records: KeyRecord) -> Path:
    save_records(path / "keys.json", list(records))
    return path / "keys.json"


def reason(store: KeyStore, key: str) -> Reason | None:
    try:
        store.find(key)
    except NotAuthenticated as error:
        return error.reason
    return None


def within_a_second(what: str, store: KeyStore, key: str, wanted: Reason | None) -> None:
    """True at the latest one look after the change, as the running service makes it."""
    deadline = time.monotonic() + RECHECK_SECONDS + 0.3
    while reason(store, key) != wanted:
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# ---- the rules -------------------------------------------------------------------------------------------------------


def test_a_key_of_an_old_file_is_its_own_client() -> None:
    _, record = generate_key(Role.ops, "x")
    old = record.model_dump(mode="json", exclude={"client", "expires_at"})
    assert KeyRecord.model_validate(old).client == record.key_id


def test_a_secret_has_more_than_128_random_bits_and_is_not_stored(tmp_path: Path) -> None:
    key, record = generate_key(Role.ops, "x")
    secret = key.removeprefix(f"gd_{record.key_id}_")
    assert len(secret) == 32  # base64 of 24 bytes
    assert secret not in file_with(tmp_path, record).read_text()
    assert len({generate_key(Role.ops, "x")[0] for _ in range(100)}) == 100


def test_rotation_keeps_the_client_and_gives_the_first_key_an_end() -> None:
    records: list[KeyRecord] = []
    add_key(records, Role.branch, "desk", "jinan")
    first = records[0].key_id
    before = now()
    rotate_key(records, first, overlap=2 * HOUR)
    old, new = records
    assert (new.client, new.role, new.scope, new.name) == (first, Role.branch, "jinan", "desk")
    assert new.expires_at is None
    assert old.expires_at is not None
    assert before + 2 * HOUR <= old.expires_at <= now() + 2 * HOUR
    assert [record.state(now()) for record in records] == [KeyState.live] * 2
    assert old.state(now() + 3 * HOUR) is KeyState.expired


def test_an_earlier_end_stays() -> None:
    records: list[KeyRecord] = []
    add_key(records, Role.ops, "x", expires_at=now() + HOUR)
    end = records[0].expires_at
    rotate_key(records, records[0].key_id, overlap=24 * HOUR)
    assert records[0].expires_at == end


def test_a_client_has_at_most_two_live_keys() -> None:
    records: list[KeyRecord] = []
    add_key(records, Role.ops, "x", client="crm")
    add_key(records, Role.ops, "x", client="crm")
    with pytest.raises(KeyRefused, match="2 live keys"):
        add_key(records, Role.ops, "x", client="crm")
    with pytest.raises(KeyRefused, match="2 live keys"):
        rotate_key(records, records[0].key_id)
    revoke_key(records, records[0].key_id)
    add_key(records, Role.ops, "x", client="crm")
    assert len(records) == 3
    add_key(records, Role.ops, "another owner")


def test_the_keys_of_a_client_may_do_the_same() -> None:
    records: list[KeyRecord] = []
    add_key(records, Role.branch, "x", "jinan", "desk")
    for role, scope in ((Role.branch, "qingdao"), (Role.supervisor, None)):
        with pytest.raises(KeyRefused, match="another role or scope"):
            add_key(records, role, "x", scope, "desk")


def test_a_dead_key_is_not_rotated() -> None:
    records: list[KeyRecord] = []
    add_key(records, Role.ops, "x")
    add_key(records, Role.ops, "x", expires_at=now() - HOUR)
    revoke_key(records, records[0].key_id)
    for record, state in zip(list(records), ("revoked", "expired"), strict=True):
        with pytest.raises(KeyRefused, match=state):
            rotate_key(records, record.key_id)
    with pytest.raises(KeyRefused, match="no key"):
        revoke_key(records, "knobody")


@pytest.mark.parametrize("client", ["", "a b", "oidc:x", "客户", "x" * 65])
def test_a_client_that_is_no_name_is_refused(client: str) -> None:
    with pytest.raises(KeyRefused, match="named by"):
        add_key([], Role.ops, "x", client=client)


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = file_with(tmp_path)

    def add() -> None:
        for _ in range(5):
            with edited_records(path) as records:
                add_key(records, Role.ops, "x")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_records(path)) == 20


# ---- the command -----------------------------------------------------------------------------------------------------


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shared.http.keys", *words], capture_output=True, text=True, check=False
    )


def test_the_command_adds_rotates_lists_and_revokes(tmp_path: Path) -> None:
    file = ("--file", str(tmp_path / "keys.json"))
    added = command("add", *file, "--role", "branch", "--scope", "jinan", "--name", "Jinan", "--client", "jinan-desk")
    first = added.stdout.strip().split("_")[1]
    rotated = command("rotate", *file, "--key-id", first, "--overlap-hours", "1", "--expires-days", "90")
    second = rotated.stdout.strip().split("_")[1]
    refused = command("add", *file, "--role", "branch", "--scope", "jinan", "--name", "x", "--client", "jinan-desk")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "2 live keys" in refused.stderr
    assert command("revoke", *file, "--key-id", first).returncode == 0
    listed = command("list", *file).stdout
    lines = {line.split()[0]: line.split() for line in listed.splitlines()[1:]}
    assert lines[first][1:5] == ["jinan-desk", "branch", "jinan", "revoked"]
    assert lines[second][1:5] == ["jinan-desk", "branch", "jinan", "live"]
    ends = datetime.strptime(lines[second][6], "%Y-%m-%dT%H:%M%z")
    assert timedelta(days=89, hours=23) < ends - now() <= timedelta(days=90)
    for key in (added.stdout.strip(), rotated.stdout.strip()):
        # The secret may hold underscores itself.
        assert key.split("_", 2)[2] not in listed
    for record in load_records(tmp_path / "keys.json"):
        assert record.sha256 not in listed


def test_the_command_explains_what_it_refuses(tmp_path: Path) -> None:
    file = ("--file", str(tmp_path / "keys.json"))
    for words in (
        ("add", *file, "--role", "branch", "--name", "x"),
        ("revoke", *file, "--key-id", "knobody"),
        ("add", *file, "--role", "ops", "--name", "x", "--expires-days", "1e300"),
    ):
        result = command(*words)
        assert result.returncode == 2
        assert "error:" in result.stderr
        assert "Traceback" not in result.stderr


# ---- the file under a running service --------------------------------------------------------------------------------


def test_a_revoked_a_deleted_and_an_expired_key_are_refused_within_a_second(tmp_path: Path) -> None:
    made = [generate_key(Role.ops, str(number)) for number in range(3)]
    path = file_with(tmp_path, *(record for _, record in made))
    store = KeyStore(path)
    (revoked, _), (deleted, _), (kept, _) = made
    assert [reason(store, key) for key, _ in made] == [None] * 3
    with edited_records(path) as records:
        revoke_key(records, records[0].key_id)
    within_a_second("revoked", store, revoked, Reason.revoked)
    with edited_records(path) as records:
        del records[1]
    within_a_second("deleted", store, deleted, Reason.unknown_key)
    with edited_records(path) as records:
        records[1] = records[1].model_copy(update={"expires_at": now() + timedelta(seconds=1.5)})
        late = add_key(records, Role.ops, "late")
    within_a_second("added", store, late, None)
    assert reason(store, kept) is None
    time.sleep(1.6)
    assert reason(store, kept) is Reason.expired


def test_a_file_replaced_with_the_same_time_is_noticed(tmp_path: Path) -> None:
    key, record = generate_key(Role.ops, "x")
    _, other = generate_key(Role.ops, "x")
    path = file_with(tmp_path, record)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    store = KeyStore(path)
    size = path.stat().st_size
    save_records(path, [other])
    os.utime(path, ns=times)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (size, times[1])
    within_a_second("replaced", store, key, Reason.unknown_key)


def damage(path: Path, how: str) -> None:
    """`how` may name a time, which somebody then wrote by hand without its offset."""
    if how == "missing":
        path.unlink()
    elif how == "half-written":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not text":
        path.write_bytes(b"\xff\xfe\x00")
    elif how == "deep":
        path.write_bytes(b"[" * 100_000)
    elif how == "another shape":
        path.write_text('{"keys": []}')
    elif how == "a key twice":
        text = path.read_text().strip()
        path.write_text(text[:-1] + "," + text[1:])
    elif how in ("created_at", "expires_at", "revoked_at"):
        (written,) = json.loads(path.read_bytes())
        path.write_text(json.dumps([written | {how: "2026-11-22T12:00:00"}]))
    elif how == "a folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "half-written",
        "empty",
        "not text",
        "deep",
        "another shape",
        "a key twice",
        "a folder",
        "created_at",
        "expires_at",
        "revoked_at",
    ],
)
def test_a_damaged_file_keeps_the_last_keys_and_warns(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_store, "RECHECK_SECONDS", 0.05)
    key, record = generate_key(Role.ops, "Secret Name")
    path = file_with(tmp_path, record)
    store = KeyStore(path)
    assert store.warnings() == []
    damage(path, how)
    time.sleep(0.1)
    (warning,) = store.warnings()
    assert "cannot be read" in warning
    assert str(path) not in warning + caplog.text
    assert "Secret Name" not in warning + caplog.text
    assert reason(store, key) is None
    assert reason(store, "gd_knobody_x") is Reason.unknown_key
    time.sleep(0.1)
    assert len(store.warnings()) == 1
    assert len([entry for entry in caplog.records if entry.levelname == "WARNING"]) == 1
    if path.is_dir():
        path.rmdir()
    save_records(path, [])
    within_a_second("repaired", store, key, Reason.unknown_key)
    assert store.warnings() == []


@pytest.mark.parametrize("how", ["missing", "half-written", "a folder"])
def test_a_service_does_not_start_without_its_keys(tmp_path: Path, how: str) -> None:
    path = file_with(tmp_path, generate_key(Role.ops, "x")[1])
    damage(path, how)
    with pytest.raises((OSError, ValueError)):
        KeyStore(path)


def test_every_presented_key_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, record = generate_key(Role.ops, "x")
    store = KeyStore(file_with(tmp_path, record))
    lengths: list[tuple[int, int]] = []

    def watched(one: str, other: str) -> bool:
        lengths.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    watching = type("watching", (), {"compare_digest": staticmethod(watched)})
    monkeypatch.setattr(key_store, "hmac", watching)
    altered = key[:-1] + ("A" if key[-1] != "A" else "B")
    for presented, wanted in (
        (key, None),
        (altered, Reason.wrong_secret),
        (key[:-1], Reason.wrong_secret),
        (key + "A", Reason.wrong_secret),
        (f"gd_{record.key_id}_", Reason.wrong_secret),
        (f"gd_{record.key_id}", Reason.wrong_secret),
        (record.sha256, Reason.unknown_key),
        (f"gd_{record.key_id}_{record.sha256}", Reason.wrong_secret),
        ("gd_knobody_" + key.rpartition("_")[2], Reason.unknown_key),
        ("", Reason.unknown_key),
        ("gd_é", Reason.unknown_key),
    ):
        lengths.clear()
        assert reason(store, presented) is wanted, presented
        assert lengths == [(64, 64)]

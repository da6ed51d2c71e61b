"""The audit trail: it refuses changes, and whatever somebody with more power changes all the same is named."""

import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from shared.database import audit
from shared.database.audit import AuditReport, FaultKind, Head, Sealed, digest, seal, verify
from shared.database.audit_watch import AuditWatch
from shared.database.connection import Connection, Result
from shared.database.engine import Database
from shared.database.leases import Leases
from shared.database.sealer import Sealer
from shared.telemetry import metrics
from tests.support.parts import Databases

ADD = text("INSERT INTO audit_trail (actor, action, subject, details) VALUES ('rules', 'thing.done', 'thing', '{}')")
URL = "postgresql://nobody@127.0.0.1:1/nowhere"
CHANGES = [
    "UPDATE audit_trail SET actor = 'somebody else' WHERE id = 1",
    "DELETE FROM audit_trail WHERE id = 1",
    "TRUNCATE audit_trail",
    "UPDATE audit_seals SET hash = '' WHERE number = 1",
    "DELETE FROM audit_seals WHERE number = 1",
    "TRUNCATE audit_seals",
]


@dataclass
class Trail:
    """The trail of one database of review."""

    database: Database

    async def write(self, count: int = 1, action: str = "thing.done") -> None:
        async with self.database.transaction() as transaction:
            for number in range(count):
                transaction.audit(action, actor="supervisor:test", subject=f"thing {number}", details={"n": number})

    async def seal(self) -> Sealed:
        async with self.database.transaction() as transaction:
            return await seal(transaction.connection)

    async def verify(self, **options: Any) -> AuditReport:
        return await self.database.read(lambda connection: verify(connection, **options))

    async def as_owner(self, sql: str) -> None:
        """What the owner of the database can do and nobody else: the triggers off, the change, the triggers on."""
        async with self.database.transaction() as owner:
            connection = owner.connection
            for table in ("audit_trail", "audit_seals"):
                await connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
            await connection.execute(text(sql))
            for table in ("audit_trail", "audit_seals"):
                await connection.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))


@pytest_asyncio.fixture
async def trail(databases: Databases) -> AsyncIterator[Trail]:
    """Three seals of four rows each."""
    database = Database(await databases.fresh("review"), pool_size=12)
    found = Trail(database)
    for _ in range(3):
        await found.write(4)
        await found.seal()
    yield found
    await database.close()


@pytest.mark.parametrize("sql", CHANGES)
async def test_the_trail_refuses_every_change(trail: Trail, sql: str) -> None:
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        async with trail.database.transaction() as transaction:
            await transaction.connection.execute(text(sql))


async def test_an_untouched_trail_is_intact(trail: Trail) -> None:
    await trail.write(2)
    report = await trail.verify()
    assert report.intact
    assert (report.seals, report.rows, report.unsealed) == (3, 12, 2)
    assert report.head is not None
    assert report.head.number == 3


async def test_nothing_new_gives_no_seal(trail: Trail) -> None:
    done = await trail.seal()
    assert done.rows == 0
    assert done.head is not None
    assert done.head.number == 3


@pytest.mark.parametrize("column", ["actor", "action", "subject", "details", "at", "xid"])
async def test_an_altered_row_is_named(trail: Trail, column: str) -> None:
    value = {"at": "at + interval '1 microsecond'", "xid": "xid - 1"}.get(column, f"{column} || ' '")
    await trail.as_owner(f"UPDATE audit_trail SET {column} = {value} WHERE id = 6")
    report = await trail.verify()
    assert [(fault.kind, fault.row, fault.seal) for fault in report.faults] == [(FaultKind.row_altered, 6, 2)]


async def test_a_deleted_row_is_named(trail: Trail) -> None:
    await trail.as_owner("DELETE FROM audit_trail WHERE id = 5")
    report = await trail.verify()
    assert [(fault.kind, fault.row, fault.seal) for fault in report.faults] == [(FaultKind.row_deleted, 5, 2)]


async def test_a_row_put_in_behind_the_last_seal_is_named(trail: Trail) -> None:
    await trail.as_owner(
        "INSERT INTO audit_trail (xid, actor, action, subject, details)"
        " SELECT xid, 'nobody', 'never.happened', 'thing', '{}' FROM audit_trail WHERE id = 7"
    )
    report = await trail.verify()
    assert [(fault.kind, fault.row) for fault in report.faults] == [(FaultKind.row_inserted, 13)]


async def test_a_row_that_would_never_be_sealed_is_named(trail: Trail) -> None:
    await trail.as_owner(
        "INSERT INTO audit_trail (xid, actor, action, subject, details)"
        " VALUES (4611686018427387904, 'nobody', 'never.happened', 'thing', '{}')"
    )
    report = await trail.verify()
    assert [(fault.kind, fault.row) for fault in report.faults] == [(FaultKind.row_inserted, 13)]


@pytest.mark.parametrize(
    "change",
    [
        "sealed_at = sealed_at - interval '1 day'",
        "ids = ARRAY[5, 6, 8, 7]::bigint[]",
        "digests = substring(digests FROM 17) || substring(digests FOR 16)",
        "last_id = last_id + 1",
    ],
)
async def test_an_altered_seal_is_named(trail: Trail, change: str) -> None:
    await trail.as_owner(f"UPDATE audit_seals SET {change} WHERE number = 2")
    faults = (await trail.verify()).faults
    assert (faults[0].kind, faults[0].seal) == (FaultKind.seal_altered, 2)
    assert {fault.kind for fault in faults} <= {FaultKind.seal_altered, FaultKind.row_altered}


async def test_a_seal_with_a_new_hash_breaks_the_next_one(trail: Trail) -> None:
    await trail.as_owner("UPDATE audit_seals SET hash = sha256('x') WHERE number = 2")
    faults = (await trail.verify()).faults
    assert [(fault.kind, fault.seal) for fault in faults] == [(FaultKind.seal_altered, 2), (FaultKind.seal_altered, 3)]


async def test_a_removed_seal_is_named(trail: Trail) -> None:
    await trail.as_owner("DELETE FROM audit_seals WHERE number = 2")
    faults = (await trail.verify()).faults
    assert [(fault.kind, fault.seal) for fault in faults] == [(FaultKind.seal_missing, 2)]


async def test_two_seals_in_another_order_are_named(trail: Trail) -> None:
    await trail.as_owner("UPDATE audit_seals SET number = CASE number WHEN 1 THEN -2 ELSE -1 END WHERE number < 3")
    await trail.as_owner("UPDATE audit_seals SET number = -number WHERE number < 0")
    faults = (await trail.verify()).faults
    assert {1, 2} <= {fault.seal for fault in faults if fault.kind is FaultKind.seal_altered}


async def test_a_tail_cut_off_shows_against_a_noted_head(trail: Trail) -> None:
    noted = (await trail.verify()).head
    await trail.as_owner("DELETE FROM audit_seals WHERE number = 3")
    await trail.as_owner("DELETE FROM audit_trail WHERE id > 8")
    assert (await trail.verify()).intact
    cut = await trail.verify(expect=noted)
    assert [(fault.kind, fault.seal) for fault in cut.faults] == [(FaultKind.seal_missing, 3)]
    await trail.write()
    await trail.seal()
    written_anew = await trail.verify(expect=noted)
    assert [(fault.kind, fault.seal) for fault in written_anew.faults] == [(FaultKind.other_chain, 3)]


async def test_a_later_part_can_be_checked_alone(trail: Trail) -> None:
    await trail.as_owner("DELETE FROM audit_trail WHERE id = 1")
    assert not (await trail.verify()).intact
    later = await trail.verify(first=2)
    assert later.intact
    assert (later.seals, later.rows) == (2, 8)


async def test_many_faults_do_not_hide_their_number_behind_one_another(trail: Trail) -> None:
    await trail.as_owner("UPDATE audit_trail SET actor = 'x'")
    report = await trail.verify()
    assert [fault.row for fault in report.faults] == list(range(1, 13))


async def test_many_rows_put_in_behind_a_seal_hide_none_that_it_holds(trail: Trail) -> None:
    await trail.as_owner(
        "INSERT INTO audit_trail (xid, actor, action, subject, details)"
        " SELECT xid, 'nobody', 'never.happened', 'thing', '{}' FROM audit_trail, generate_series(1, 200) WHERE id = 1"
    )
    faults = (await trail.verify()).faults
    assert [fault.kind for fault in faults] == [FaultKind.row_inserted] * 100


async def test_rows_of_removed_seals_are_not_read(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; they would all be in memory at once."""
    await trail.as_owner("DELETE FROM audit_seals WHERE number < 3")
    statements: list[str] = []
    execute = Connection.execute

    async def noted(connection: Connection, statement: Any, given: Any = None) -> Result:
        statements.append(str(statement))
        return await execute(connection, statement, given)

    monkeypatch.setattr(Connection, "execute", noted)
    report = await trail.verify()
    assert [fault.kind for fault in report.faults] == [FaultKind.seal_missing]
    of_rows = [each for each in statements if each.startswith("SELECT id, xid")]
    assert len(of_rows) == 1
    assert "WHERE id = ANY" in of_rows[0], "those of seal 3, and not from the beginning to its end"


async def test_digests_are_not_reckoned_on_the_event_loop(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()

    def noted(row: Any) -> bytes:
        threads.add(threading.get_ident())
        return digest(row)

    monkeypatch.setattr(audit, "digest", noted)
    assert (await trail.verify()).intact
    assert threads
    assert threading.get_ident() not in threads


async def test_no_row_is_left_out_however_long_its_transaction_takes(trail: Trail) -> None:
    """Transactions end in another order than they began or numbered their rows, and two sealers work at once."""
    writing = True
    dice = random.Random(7)

    async def write(pauses: list[float]) -> None:
        for pause in pauses:
            async with trail.database.transaction() as transaction:
                await transaction.connection.execute(text("SELECT pg_current_xact_id()"))
                await asyncio.sleep(pause)
                await transaction.connection.execute(ADD)
                await asyncio.sleep(pause)

    async def seal_on() -> None:
        while writing:
            await trail.seal()
            await asyncio.sleep(0.002)

    sealers = [asyncio.create_task(seal_on()) for _ in range(2)]
    await asyncio.gather(*(write([dice.random() * 0.04 for _ in range(25)]) for _ in range(8)))
    writing = False
    await asyncio.gather(*sealers)
    await trail.seal()
    report = await trail.verify()
    assert report.faults == []
    assert (report.rows, report.unsealed) == (12 + 200, 0)
    assert report.seals > 5


async def test_an_open_transaction_holds_back_what_began_after_it(trail: Trail) -> None:
    async with trail.database.transaction() as slow:
        await slow.connection.execute(text("SELECT pg_current_xact_id()"))
        await trail.write()
        held = await trail.seal()
        assert held.rows == 0
        assert held.oldest_unsealed_seconds > 0
        slow.audit("thing.done", actor="rules", subject="slow")
    assert (await trail.seal()).rows == 2


async def test_the_figure_of_the_alarm_grows_while_seals_are_held_back_and_falls_when_they_come(trail: Trail) -> None:
    sealer = Sealer(trail.database, Leases(URL))
    async with trail.database.transaction() as slow:
        await slow.connection.execute(text("SELECT pg_current_xact_id()"))
        await trail.write()
        await sealer.seal_once()
        first = metrics.audit_unsealed_seconds._value.get()
        await asyncio.sleep(0.2)
        await sealer.seal_once()
        assert metrics.audit_unsealed_seconds._value.get() >= first + 0.2
    await sealer.seal_once()
    assert metrics.audit_unsealed_seconds._value.get() == 0
    assert (await trail.verify()).unsealed == 0


async def test_two_processes_seal_one_chain_and_tell_its_head(trail: Trail, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="shared.database.sealer")
    url = trail.database.url
    leases = [Leases(url), Leases(url)]
    sealers = [asyncio.create_task(Sealer(trail.database, lease).run()) for lease in leases]
    await trail.write(5)
    for _ in range(400):
        if (await trail.verify()).unsealed == 0:
            break
        await asyncio.sleep(0.05)
    for sealer in sealers:
        sealer.cancel()
    await asyncio.gather(*sealers, return_exceptions=True)
    for lease in leases:
        await lease.close()
    report = await trail.verify()
    assert (report.intact, report.rows, report.unsealed) == (True, 17, 0)
    told = caplog.records[-1]
    assert report.head is not None
    assert (told.message, told.__dict__["seal"]) == ("head of the audit trail", report.head.number)
    assert told.__dict__["hash"] == report.head.hash


async def test_the_command_tells_by_its_exit_whether_the_trail_is_intact(trail: Trail) -> None:
    def check(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "REVIEW_DATABASE_URL": trail.database.url,
            "REVIEW_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "REVIEW_KEYS_FILE": "keys.json",
        }
        command = [sys.executable, "-m", "services.review", "audit", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    sound = await asyncio.to_thread(check)
    assert sound.returncode == 0, sound.stderr
    head = Head.model_validate(json.loads(sound.stdout)["head"])
    assert (await asyncio.to_thread(check, "--expect", str(head))).returncode == 0
    await trail.as_owner("DELETE FROM audit_trail WHERE id = 5")
    broken = await asyncio.to_thread(check)
    assert broken.returncode == 1
    assert [fault["row"] for fault in json.loads(broken.stdout)["faults"]] == [5]
    assert (await asyncio.to_thread(check, "--expect", "nonsense")).returncode == 2


def test_a_head_is_read_as_it_is_written() -> None:
    head = Head(number=12, hash="ab" * 32)
    assert Head.read(str(head)) == head
    for wrong in ("", "12", "x:" + "ab" * 32, "12:ab", "12:" + "zz" * 32):
        with pytest.raises(ValueError, match=r"number:hash|hexadecimal"):
            Head.read(wrong)


async def test_the_watch_reads_all_first_then_what_is_new_and_misses_no_cut(trail: Trail) -> None:
    watch = AuditWatch(trail.database, Leases(URL))
    assert (await watch.check()).rows == 12
    await trail.write(3)
    await trail.seal()
    assert (await watch.check()).rows == 3, "only what is new"
    assert metrics.audit_chain_broken._value.get() == 0
    await trail.as_owner("DELETE FROM audit_seals WHERE number = 4")
    assert {fault.kind for fault in (await watch.check()).faults} == {FaultKind.seal_missing}
    assert metrics.audit_chain_broken._value.get() == 1
    await trail.seal()
    report = await watch.check()
    assert ([fault.kind for fault in report.faults], report.rows) == ([FaultKind.other_chain], 15)
    metrics.audit_chain_broken.set(0)


async def test_the_watch_finds_an_old_change_when_it_reads_all(trail: Trail) -> None:
    watch = AuditWatch(trail.database, Leases(URL))
    assert (await watch.check()).intact
    await trail.as_owner("UPDATE audit_trail SET actor = 'somebody else' WHERE id = 1")
    assert (await watch.check()).intact, "old rows are read once a day"
    assert [fault.row for fault in (await AuditWatch(trail.database, Leases(URL)).check()).faults] == [1]
    assert metrics.audit_chain_broken._value.get() == 1
    metrics.audit_chain_broken.set(0)

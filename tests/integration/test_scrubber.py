"""The scrubber on a real database: in pieces that hold nobody up, and one ticket that fails stops no other."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text

from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.database.engine import Database
from shared.database.leases import Leases
from shared.ids import new_id
from shared.messaging import outbox
from shared.messaging.erasure import Scrubber, note_erased
from shared.messaging.inbox import headers_out
from tests.support.messaging import NOW
from tests.support.parts import Databases

TOLD = "门前的老槐树"
PARK = text(
    "INSERT INTO parked_events (subject, publisher, version, topic, partition, record_offset, headers, payload, reason)"
    " VALUES (:id, 'intake', 2, 't', 0, 0, :headers, :payload, 'x')"
)
BURY = text(
    "INSERT INTO dead_letters (topic, partition, record_offset, record_key, headers, payload, error, attempts)"
    " VALUES ('t', 0, 0, :key, :headers, :payload, 'x', 1)"
)
ANSWER = text(
    "INSERT INTO idempotency_keys (client, key, request_hash, status, answer) VALUES ('c', :key, '', 200, :answer)"
)
REFUSING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no: %', NEW; END $$;
CREATE TRIGGER refusing BEFORE UPDATE ON parked_events FOR EACH ROW WHEN (NEW.subject = '{}') EXECUTE FUNCTION refuse()
"""


@dataclass
class Plumbing:
    """The plumbing of one database of review."""

    database: Database
    leases: Leases

    async def execute(self, statement: Any, **values: Any) -> None:
        async with self.database.transaction() as transaction:
            await transaction.connection.execute(statement, values)

    async def query(self, statement: str) -> list[Any]:
        return await self.database.read(lambda connection: _all(connection, statement))

    async def tells_of(self, *subjects: UUID) -> None:
        """A text in the outbox, a parked event, a dead letter and a kept answer of each, which then is erased."""
        event = TicketWithdrawn(ticket_no="T1", reason=TOLD, actor="a")
        payload = event.model_dump_json().encode()
        for subject in subjects:
            headers = headers_out(Envelope(new_id(), "/gongdan/intake", event.TYPE, subject, NOW, 2).headers())
            async with self.database.transaction() as transaction:
                transaction.publish(event, subject=subject, version=1, time=NOW)
                await transaction.connection.execute(PARK, {"id": subject, "headers": headers, "payload": payload})
                dead = {"key": b"jinan", "headers": headers, "payload": payload}
                await transaction.connection.execute(BURY, dead)
            await self.answer(str(subject), [{"ticket_id": str(subject), "note": TOLD}])
        async with self.database.transaction() as transaction:
            await note_erased(transaction.connection, subjects)

    async def answer(self, key: str, items: list[Any]) -> None:
        await self.execute(ANSWER, key=key, answer=orjson.dumps({"items": items}))

    async def telling(self) -> list[str]:
        """The tables that still hold the text."""
        tables = {"outbox": "payload", "parked_events": "payload", "dead_letters": "payload"}
        found = []
        for table, column in (tables | {"idempotency_keys": "answer"}).items():
            rows = await self.query(f"SELECT {column} FROM {table}")
            found += [table for row in rows if TOLD in bytes(row[0]).decode()]
        return found

    async def comes_to(self, tables: list[str]) -> bool:
        """Whether within eight seconds only these hold the text."""
        for _ in range(80):
            if await self.telling() == tables:
                return True
            await asyncio.sleep(0.1)
        return False


async def _all(connection: Any, statement: str) -> list[Any]:
    return list((await connection.execute(text(statement))).all())


@pytest_asyncio.fixture
async def plumbed(databases: Databases) -> AsyncIterator[Plumbing]:
    url = await databases.fresh("review")
    found = Plumbing(Database(url, pool_size=4), Leases(url))
    yield found
    await found.leases.close()
    await found.database.close()


async def test_a_held_row_of_the_outbox_holds_back_nothing_before_it(
    plumbed: Plumbing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the scrubber hold, while it waits, a row that the relay wants to mark."""
    monkeypatch.setattr(outbox, "CHUNK_IDS", 1)
    first, second = new_id(), new_id()
    await plumbed.tells_of(first, second)
    async with plumbed.database.transaction() as relay:
        held = {"id": second}
        await relay.connection.execute(text("SELECT 1 FROM outbox WHERE subject = :id FOR UPDATE"), held)
        scrubbing = asyncio.create_task(Scrubber(plumbed.database, plumbed.leases).scrub_once())
        assert await plumbed.comes_to(["outbox"])
        await plumbed.execute(text("UPDATE outbox SET published_at = now() WHERE subject = :id"), id=first)
        assert await plumbed.query("SELECT 1 FROM erased_subjects WHERE scrubbed_at IS NOT NULL") == []
    assert await scrubbing == 2
    assert await plumbed.telling() == []
    assert len(await plumbed.query("SELECT 1 FROM erased_subjects WHERE scrubbed_at IS NOT NULL")) == 2
    assert len(await plumbed.query("SELECT 1 FROM outbox WHERE published_at IS NOT NULL")) == 1


async def test_a_kept_page_is_forgotten_for_any_of_its_tickets_and_no_other_answer_is(plumbed: Plumbing) -> None:
    erased, other = new_id(), new_id()
    await plumbed.tells_of(erased)
    ours, theirs = ({"ticket_id": str(each), "ticket": {"content": "x"}} for each in (erased, other))
    await plumbed.answer("both", [theirs, ours])
    await plumbed.answer("other", [theirs])
    await plumbed.answer("quoted", [{"note": f'"ticket_id":"{erased}"'}])
    await plumbed.execute(text("INSERT INTO idempotency_keys (client, key, request_hash) VALUES ('c', 'at work', '')"))
    assert await Scrubber(plumbed.database, plumbed.leases).scrub_once() == 1
    kept = await plumbed.query("SELECT key FROM idempotency_keys ORDER BY key")
    assert [row.key for row in kept] == ["at work", "other", "quoted"]


async def test_a_ticket_that_fails_is_told_and_the_others_are_erased(
    plumbed: Plumbing, caplog: pytest.LogCaptureFixture
) -> None:
    failing, other = new_id(), new_id()
    await plumbed.tells_of(failing, other)
    for statement in REFUSING.format(failing).strip().split("$$;\n"):
        await plumbed.execute(text(statement + ("$$" if "LANGUAGE" in statement else "")))
    scrubber = Scrubber(plumbed.database, plumbed.leases)
    assert await scrubber.scrub_once() == 2
    assert await scrubber.scrub_once() == 0, "it is left out for a while"
    left = await plumbed.query("SELECT subject FROM erased_subjects WHERE scrubbed_at IS NULL")
    assert [row.subject for row in left] == [failing]
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert told.__dict__["ticket_id"] == str(failing)
    assert TOLD not in caplog.text
    await plumbed.execute(text("DROP TRIGGER refusing ON parked_events"))
    assert await Scrubber(plumbed.database, plumbed.leases).scrub_once() == 1
    assert await plumbed.telling() == []


async def test_an_unexpected_error_does_not_end_the_role(plumbed: Plumbing) -> None:
    await plumbed.tells_of(new_id())
    await plumbed.execute(text("ALTER TABLE erased_subjects RENAME TO elsewhere"))
    role = asyncio.create_task(Scrubber(plumbed.database, plumbed.leases).run())
    await asyncio.sleep(0.5)
    assert not role.done()
    await plumbed.execute(text("ALTER TABLE elsewhere RENAME TO erased_subjects"))
    assert await plumbed.comes_to([])
    role.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await role

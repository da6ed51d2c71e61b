"""A rebuild that comes to nothing leaves nothing, takes no connection from requests and may take its time.

That it finds and repairs what differs is tried against a running stack (`tests/e2e/test_console.py`).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer
from sqlalchemy import text

from services.intake.rebuild import IntakeReadState
from services.intake.tables import metadata, plumbing
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import INTAKE
from shared.database import engine
from shared.database.engine import Database
from shared.errors import Transient
from shared.ids import new_id
from shared.messaging.erasure import note_erased
from shared.messaging.events import Record
from shared.operations.history import History
from shared.operations.rebuild import SCHEMA, Rebuilding, _make_shadow, _replace
from tests.support.messaging import NOW
from tests.support.parts import Databases, free_port

SLOW = "SELECT ticket_id AS subject, ARRAY['x'] AS what FROM tickets, pg_sleep(0.8)"


@dataclass
class Office:
    """One database of intake with one connection for requests."""

    url: str
    database: Database

    async def rebuild(self, state: Any) -> None:
        """With a broker that is away."""
        rebuilding = Rebuilding("intake", self.database, self.url, plumbing.outbox, state, away)
        await rebuilding.run(replacing=False, actor="ops:test", reason="r")

    async def schemas(self) -> int:
        query = text("SELECT count(*) FROM pg_namespace WHERE nspname = :name")
        return int(await self.database.read(lambda connection: connection.scalar(query, {"name": SCHEMA})) or 0)


def away() -> AIOKafkaConsumer:
    return AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{free_port()}")


@pytest_asyncio.fixture
async def office(databases: Databases) -> AsyncIterator[Office]:
    url = await databases.fresh("intake")
    found = Office(url, Database(url, pool_size=1))
    yield found
    await found.database.close()


class SlowSeed(IntakeReadState):
    seed = "SELECT pg_sleep(0.8)"


class SlowDifferences(IntakeReadState):
    differences = SLOW


async def test_a_rebuild_that_fails_leaves_no_schema_behind(office: Office) -> None:
    with pytest.raises(Transient, match="broker"):
        await office.rebuild(IntakeReadState())
    assert await office.schemas() == 0


async def test_what_an_earlier_rebuild_left_is_in_nobodys_way(office: Office) -> None:
    async with office.database.transaction() as transaction:
        await transaction.connection.execute(text(f"CREATE SCHEMA {SCHEMA} CREATE TABLE tickets (x int)"))
    with pytest.raises(Transient, match="broker"):
        await office.rebuild(IntakeReadState())
    assert await office.schemas() == 0


async def test_a_rebuild_takes_no_connection_from_requests(office: Office) -> None:
    async with office.database.connection():
        with pytest.raises(Transient, match="broker"):
            await office.rebuild(IntakeReadState())


async def test_a_large_seed_and_many_differences_may_take_longer_than_a_request(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engine.SERVER_SETTINGS, "statement_timeout", "500")
    with pytest.raises(Transient, match="broker"):
        await office.rebuild(SlowSeed())
    hasty = Database(office.url, pool_size=1)
    assert await _replace(hasty, SlowDifferences(), actor="ops:test", reason="r") == 0
    await hasty.close()


async def test_what_was_erased_is_not_kept_and_what_is_kept_is_not_gone_through_again(office: Office) -> None:
    erased, other = new_id(), new_id()
    async with office.database.transaction() as transaction:
        connection = transaction.connection
        await note_erased(connection, [erased])
        await _make_shadow(connection, metadata.sorted_tables, IntakeReadState())
        for statement in (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''read again''; END'",
            f"CREATE TRIGGER refusing BEFORE DELETE ON {SCHEMA}.history EXECUTE FUNCTION public.refuse()",
        ):
            await connection.execute(text(statement))
    shadow = Database(office.url, pool_size=1, schema=SCHEMA)
    reader = away()
    history = History(reader, (INTAKE,))
    for subject in (erased, other):
        headers = tuple(Envelope(new_id(), "/gongdan/intake", TicketWithdrawn.TYPE, subject, NOW, 1).headers())
        await history._keep(shadow, [Record(INTAKE, 0, 0, str(subject).encode(), headers, b"{}")])
    kept = await shadow.read(lambda connection: connection.scalar(text("SELECT array_agg(subject) FROM history")))
    assert kept == [other]
    await shadow.close()
    await reader.stop()

"""sla on a real database, through its own projection and sweep; and events as the other services send them."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest_asyncio
from sqlalchemy import text

from services.sla.consumers import SlaProjection
from services.sla.usecases.desk import Desk
from services.sla.usecases.fire import Pass, close_quiet_incidents, fire_due
from shared.clock import Clock
from shared.contracts.dispatch import (
    Label,
    Links,
    OrderCustomer,
    OrderDispatched,
    OrderProgressed,
    OrderSheet,
    TicketClosed,
)
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketRegistered
from shared.contracts.ticket import Basis, Place
from shared.database.engine import Database
from shared.ids import new_id
from shared.messaging.events import Event, Record
from tests.support.parts import Databases
from tests.support.snapshots import PACK, snapshot

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
WINDOW = timedelta(minutes=60)
BASIS = Basis(pack=PACK.id, version=PACK.version)
NOBODY = UUID(int=0)

_numbers = itertools.count(1)


def event(data: Any, subject: UUID, at: datetime, publisher: str = "dispatch") -> Event:
    envelope = Envelope(new_id(), f"/gongdan/{publisher}", data.TYPE, subject, at, 1)
    return Event(envelope, data, Record(data.TOPIC, 0, 0, None, (), b""))


def registered(at: datetime, *, city: str = "jinan", customer: str | None = None, **changes: Any) -> Event:
    """A complaint about that city, made at that time; of another customer unless told otherwise."""
    number = next(_numbers)
    facts = {"key": customer or f"c{number}", "tier": changes.pop("tier", "ordinary")}
    ticket = snapshot(
        ticket_no=f"T20261122-{number:07d}",
        accepted_at=at,
        submitted_at=at,
        customer=facts,
        place=Place(city=city, address="市中心"),
        **changes,
    )
    return event(TicketRegistered(ticket=ticket, actor="a"), new_id(), at, "intake")


def told(ticket: Event, at: datetime, contacted_at: datetime | None = None) -> Event:
    """The branch spoke to the customer, which fulfils the first reply."""
    data = OrderProgressed(branch="jinan", note="已联系", contacted_at=contacted_at or at, actor="a")
    return event(data, ticket.subject, at)


def closed(ticket: Event, at: datetime) -> Event:
    data = TicketClosed(ticket_no=ticket.data.ticket.ticket_no, outcome="satisfied", basis=BASIS, actor="a")
    return event(data, ticket.subject, at)


def dispatched(ticket: Event, at: datetime, branch: str = "jinan") -> Event:
    """As dispatch sends it; sla reads the branch."""
    snap = ticket.data.ticket
    sheet = OrderSheet(
        ticket_no=snap.ticket_no,
        kind=snap.kind,
        category=snap.category,
        category_label=Label(zh="类别", en="category"),
        content=snap.content,
        customer=OrderCustomer(tier=snap.customer.tier, home_city=snap.customer.home_city),
        accepted_at=snap.accepted_at,
        urgency=snap.urgency,
        links=Links(contact="http://x", order="http://x", reply="http://x"),
    )
    data = OrderDispatched(round=1, branch=branch, complaint_city=branch, order=sheet, basis=BASIS, actor="rules")
    return event(data, ticket.subject, at)


@dataclass
class Bench:
    """One database of sla with a projection; `desk.clock` knows the database's time."""

    database: Database
    desk: Desk
    projection: SlaProjection

    async def apply(self, *events: Event) -> None:
        """One batch, in one transaction, as the consumer does."""
        async with self.database.transaction() as transaction:
            state = await self.projection.load(transaction, events)
            for each in events:
                self.projection.apply(state, each)
            await self.projection.save(transaction, state)

    async def one_by_one(self, *events: Event) -> None:
        for each in events:
            await self.apply(each)

    async def sweep(self, limit: int = 500) -> Pass:
        async with self.database.transaction() as transaction:
            return await fire_due(self.desk, transaction, limit)

    async def sweep_all(self, limit: int = 500) -> list[Pass]:
        """Until a pass finds nothing."""
        passes = [await self.sweep(limit)]
        while passes[-1].fired:
            passes.append(await self.sweep(limit))
        return passes

    async def close_quiet(self) -> int:
        async with self.database.transaction() as transaction:
            return await close_quiet_incidents(self.desk, transaction)

    async def query(self, sql: str, **values: Any) -> list[Any]:
        async def run(connection: Any) -> list[Any]:
            return list((await connection.execute(text(sql), values)).all())

        return await self.database.read(run)

    async def one(self, sql: str, **values: Any) -> Any:
        ((value, *_),) = await self.query(sql, **values)
        return value

    async def now(self) -> datetime:
        moment: datetime = await self.one("SELECT clock_timestamp()")
        return moment.astimezone(UTC)

    async def clock(self, ticket: Event, kind: str) -> Any:
        (row,) = await self.query(
            "SELECT * FROM clocks WHERE ticket_id = :id AND kind = :kind", id=ticket.subject, kind=kind
        )
        return row

    async def published(self, kind: str, subject: UUID | None = None) -> list[dict[str, Any]]:
        """What the outbox holds of a type, in its order."""
        rows = await self.query(
            "SELECT payload FROM outbox WHERE type = :type AND (subject = :subject OR :subject = :nobody) ORDER BY id",
            type=kind,
            subject=subject or NOBODY,
            nobody=NOBODY,
        )
        return [orjson.loads(row[0]) for row in rows]

    async def escalations(self, ticket: Event) -> list[str]:
        rows = await self.query(
            "SELECT kind FROM escalations WHERE ticket_id = :id ORDER BY escalation_id", id=ticket.subject
        )
        return [row[0] for row in rows]

    async def members(self) -> set[str]:
        rows = await self.query("SELECT customer_key FROM complaint_facts WHERE incident_id IS NOT NULL")
        return {row[0] for row in rows}

    async def incidents(self) -> list[tuple[str, int]]:
        rows = await self.query("SELECT status, member_count FROM incidents ORDER BY first_at")
        return [(row[0], row[1]) for row in rows]

    async def holes(self) -> list[Any]:
        """Subjects of the outbox whose versions do not go 1, 2, 3, … in the order of publishing; or whose last
        version is not the stored one."""
        return await self.query(
            "SELECT subject FROM (SELECT subject, version,"
            " row_number() OVER (PARTITION BY subject ORDER BY id) AS place FROM outbox) AS numbered"
            " WHERE version <> place"
            " UNION ALL SELECT ticket_id FROM complaint_facts AS f"
            " WHERE version <> (SELECT count(*) FROM outbox AS o WHERE o.subject = f.ticket_id)"
            " UNION ALL SELECT incident_id FROM incidents AS i"
            " WHERE version <> (SELECT count(*) FROM outbox AS o WHERE o.subject = i.incident_id)"
        )


@contextlib.asynccontextmanager
async def running_bench(databases: Databases, url: str | None = None) -> AsyncIterator[Bench]:
    database = Database(url or await databases.fresh("sla"), pool_size=3)
    desk = Desk(PACK, Clock())
    bench = Bench(database, desk, SlaProjection(desk))
    desk.clock.sync(await bench.now())
    try:
        yield bench
    finally:
        await database.close()


@pytest_asyncio.fixture(name="bench")
async def fresh_bench(databases: Databases) -> AsyncIterator[Bench]:
    async with running_bench(databases) as running:
        yield running


def local(moment: str) -> datetime:
    return datetime.fromisoformat(f"{moment}+08:00")


async def at_once(one: Bench, first: Event, other: Bench, second: Event) -> None:
    """Two processes apply one event each. Neither commits before the other has read the database, unless a lock makes
    that one wait."""
    read = {id(one): asyncio.Event(), id(other): asyncio.Event()}

    async def process(bench: Bench, given: Event, theirs: asyncio.Event) -> None:
        async with bench.database.transaction() as transaction:
            state = await bench.projection.load(transaction, [given])
            read[id(bench)].set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(theirs.wait(), 0.5)
            bench.projection.apply(state, given)
            await bench.projection.save(transaction, state)

    for each in (one, other):
        await each.apply()  # reads the calendar, which the first start stores
    await asyncio.gather(process(one, first, read[id(other)]), process(other, second, read[id(one)]))

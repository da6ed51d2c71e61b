"""A consumer and a relay on a real database and broker, with a projection that writes its effects down."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaProducer
from sqlalchemy import text

from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.contracts.sla import IncidentJoined, Problem
from shared.contracts.topics import INTAKE, SLA
from shared.database.engine import Database, Transaction
from shared.database.leases import Leases
from shared.errors import NotYet, Poison
from shared.ids import new_id
from shared.messaging.consumer import Consumer
from shared.messaging.events import Event
from shared.messaging.log_watch import LogWatch
from shared.messaging.relay import Relay
from tests.support.parts import Broker, beside

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PATIENCE_SECONDS = 30.0
OF_THESE = "SELECT count(*) FROM effects WHERE subject = ANY(:ids)"


@dataclass
class Applied:
    events: list[Event] = field(default_factory=list)


class Recorder:
    """A projection that stores each effect, waits for a ticket's first event, and cannot stomach one reason until it is
    repaired."""

    types = frozenset({TicketWithdrawn.TYPE, IncidentJoined.TYPE})

    def __init__(self, *, repaired: bool = False) -> None:
        self.repaired = repaired

    async def load(self, transaction: Transaction, events: Sequence[Event]) -> Applied:
        ids = [event.subject for event in events]
        rows = await transaction.connection.execute(
            text("SELECT DISTINCT subject FROM effects WHERE subject = ANY(:ids)"), {"ids": ids}
        )
        self._known = {row[0] for row in rows}
        return Applied()

    def apply(self, state: Applied, event: Event) -> None:
        if isinstance(event.data, IncidentJoined) and event.subject not in self._known:
            raise NotYet("the ticket is not here yet")
        if isinstance(event.data, TicketWithdrawn) and event.data.reason == "poison" and not self.repaired:
            raise Poison("this one can never be applied")
        self._known.add(event.subject)
        state.events.append(event)

    async def save(self, transaction: Transaction, state: Applied) -> None:
        for event in state.events:
            await transaction.connection.execute(
                text("INSERT INTO effects (subject, publisher, version) VALUES (:subject, :publisher, :version)"),
                {"subject": event.subject, "publisher": event.publisher, "version": event.version},
            )

    async def on_new_log(self, database: Database, alive: Callable[[], None]) -> None: ...


@dataclass
class Running:
    consumer: Consumer[Applied]
    watch: LogWatch


@dataclass
class Bench:
    """One database of review, and what it takes to run its relay and consumer."""

    url: str
    broker: Broker
    database: Database

    @asynccontextmanager
    async def running(self, *, consume: bool = True, relay: bool = True) -> AsyncIterator[Running]:
        """The roles of one process; leaving kills them as a crash would."""
        leases, watch = Leases(self.url), LogWatch(self.broker.address)
        sender = Relay("review", self.database, leases, self.broker.address, retention_days=7)
        consumer = Consumer(
            "review", Recorder(), self.database, leases, watch, self.broker.address, fetch_max_wait_ms=20
        )
        await sender.keep_partitions()
        works = [watch.run, *([sender.run] if relay else ()), *([consumer.run] if consume else ())]
        try:
            async with beside(works):
                yield Running(consumer, watch)
        finally:
            await leases.close()

    async def query(self, sql: str, **values: Any) -> list[Any]:
        async def run(connection: Any) -> list[Any]:
            return list((await connection.execute(text(sql), values)).all())

        return await self.database.read(run)

    async def until(self, sql: str, expected: Any, **values: Any) -> None:
        """Wait until the query's first value is as expected."""

        async def ask() -> Any:
            return (await self.query(sql, **values))[0][0]

        await self.eventually(ask, expected)

    async def eventually(self, ask: Callable[[], Awaitable[Any]], expected: Any) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        while (found := await ask()) != expected:
            assert loop.time() < deadline, f"{found!r} is not {expected!r}"
            await asyncio.sleep(0.05)

    async def versions(self, subject: UUID, publisher: str = "intake") -> list[int]:
        rows = await self.query(
            "SELECT version FROM effects WHERE subject = :subject AND publisher = :publisher ORDER BY id",
            subject=subject,
            publisher=publisher,
        )
        return [row[0] for row in rows]


async def send(
    producer: AIOKafkaProducer,
    subject: UUID,
    version: int,
    *,
    publisher: str = "intake",
    reason: str = "changed my mind",
    value: bytes | None = None,
    headers: list[tuple[str, bytes]] | None = None,
) -> None:
    event: TicketWithdrawn | IncidentJoined = TicketWithdrawn(
        ticket_no="T20261122-0000001", reason=reason, actor="front_line:test"
    )
    if publisher == "sla":
        event = IncidentJoined(ticket_no="T1", incident_id=new_id(), problem=Problem(key="k", parts={}))
    envelope = Envelope(new_id(), f"/gongdan/{publisher}", event.TYPE, subject, NOW, version)
    await producer.send_and_wait(
        INTAKE if publisher == "intake" else SLA,
        key=str(subject).encode(),
        value=event.model_dump_json().encode() if value is None else value,
        headers=envelope.headers() if headers is None else headers,
    )

"""Work in several steps whose gaps are tried within one process: what is there before, the work, and what must be true
when it was taken up again and came to its end. Operators' work, and the timed work on personal data.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer
from pydantic import SecretStr
from sqlalchemy import text

from services.intake import app as intake_app
from services.intake import jobs
from services.intake.settings import Settings as IntakeSettings
from shared.contracts.control import ReplayRequested
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import CONTROL, INTAKE, REVIEW
from shared.database.engine import Database, Transaction
from shared.http.key_uses import KeyUses
from shared.ids import new_id
from shared.messaging import dead_letters, outbox, pauses
from shared.messaging.application import Applier
from shared.messaging.events import Record
from shared.messaging.outbox import Selection
from shared.operations import rebuild, settling
from tests.support.apps import App, random_key, running_app
from tests.support.messaging import NOW, Applied, Recorder
from tests.support.parts import Broker, Databases
from tests.support.tickets import complaint, phone
from tests.support.whole import as_record

OPS = "ops:test"
TICKETS = 5


@dataclass(frozen=True)
class Place:
    databases: Databases
    broker: Broker
    folder: Path
    patch: pytest.MonkeyPatch


@dataclass(frozen=True)
class Scene:
    work: Callable[[], Awaitable[object]]
    check: Callable[[], Awaitable[None]]


SceneMaker = Callable[[Place], AbstractAsyncContextManager[Scene]]


async def query(database: Database, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    async def run(connection: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await connection.execute(text(sql), values)]

    return await database.read(run)


async def execute(database: Database, sql: str) -> None:
    async with database.transaction() as transaction:
        await transaction.connection.execute(text(sql))


# ---- personal data in intake -----------------------------------------------------------------------------------------


@asynccontextmanager
async def intake(place: Place, url: str, **settings: Any) -> AsyncIterator[App]:
    async with running_app(intake_app.build, IntakeSettings, url, place.folder, **settings) as app:
        yield app
        await app.service.leases.close()


async def take(app: App, *, withdrawn: bool = False) -> tuple[str, str]:
    """A ticket's number, and its customer's phone."""
    number = phone()
    async with app.client("front_line") as front:
        answer = await front.post("/v1/tickets", json=complaint(customer={"phone": number}))
        ticket = str(answer.json()["ticket_no"])
        if withdrawn:
            done = await front.post(f"/v1/tickets/{ticket}/withdraw", json={"reason": "x"})
            assert done.status_code == 200, done.text
    return ticket, number


async def keep(app: App) -> None:
    (job,) = app.service._jobs
    await job.__self__.keep_once()  # type: ignore[attr-defined]


@asynccontextmanager
async def expired(place: Place) -> AsyncIterator[Scene]:
    """Five tickets that were kept long enough, erased two at a time."""
    place.patch.setattr(jobs, "BATCH", 2)
    keys = {"data_key": random_key(), "index_key": random_key()}
    async with intake(place, await place.databases.fresh("intake"), personal_retention_days=30, **keys) as app:
        for _ in range(TICKETS):
            await take(app, withdrawn=True)
        database = app.service.database
        await execute(database, "UPDATE tickets SET closed_at = closed_at - interval '31 days'")

        async def check() -> None:
            lines = await query(
                database, "SELECT array_agg(type || ' ' || version ORDER BY id) FROM outbox GROUP BY subject"
            )
            assert lines == [(["ticket.registered 1", "ticket.withdrawn 2", "ticket.erased 3"],)] * TICKETS
            counts = (
                "SELECT (SELECT count(*) FROM erased_subjects), (SELECT count(*) FROM audit_trail"
                " WHERE action = 'ticket.erased'), (SELECT count(*) FROM ticket_timeline WHERE type = 'ticket.erased'),"
                " (SELECT count(*) FROM tickets WHERE personal IS NOT NULL)"
            )
            assert await query(database, counts) == [(TICKETS, TICKETS, TICKETS, 0)]

        yield Scene(lambda: keep(app), check)


@asynccontextmanager
async def resealed(place: Place) -> AsyncIterator[Scene]:
    """Five tickets under an old key, sealed anew two at a time."""
    place.patch.setattr(jobs, "BATCH", 2)
    url = await place.databases.fresh("intake")
    old, new, index = random_key(), random_key(), random_key()
    async with intake(place, url, data_key=old, index_key=index) as app:
        tickets = dict([await take(app) for _ in range(TICKETS)])
    both = SecretStr(f"{new.get_secret_value()},{old.get_secret_value()}")

    async def check() -> None:
        async with intake(place, url, data_key=new, index_key=index) as app, app.client("callback") as reader:
            for ticket, number in tickets.items():
                assert number in (await reader.get(f"/v1/tickets/{ticket}/contact")).text

    async with intake(place, url, data_key=both, index_key=index) as app:
        yield Scene(lambda: keep(app), check)


# ---- dead letters ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def review(place: Place) -> AsyncIterator[Database]:
    database = Database(await place.databases.fresh("review"), pool_size=3)
    await execute(database, "CREATE TABLE effects (id bigserial, subject uuid, publisher text, version int)")
    try:
        yield database
    finally:
        await database.close()


def withdrawal(subject: UUID, version: int, reason: str = "x") -> Record:
    event = TicketWithdrawn(ticket_no="T20261122-0000001", reason=reason, actor="front_line:test")
    envelope = Envelope(new_id(), "/gongdan/intake", event.TYPE, subject, NOW, version)
    return Record(
        INTAKE, 0, version, str(subject).encode(), tuple(envelope.headers()), event.model_dump_json().encode(), 0
    )


def settled(settle: Callable[..., Awaitable[object]], state: str, effects: list[int]) -> SceneMaker:
    """Version 1 applied, 2 a dead letter, 3 parked behind it; then the letter is settled."""

    @asynccontextmanager
    async def scene(place: Place) -> AsyncIterator[Scene]:
        async with review(place) as database:
            applier: Applier[Applied] = Applier("review", Recorder(repaired=True), database)
            subject = new_id()
            async with database.transaction() as transaction:
                await applier.apply(transaction, [applier.decode(withdrawal(subject, 1))])
            async with database.transaction() as transaction:
                await dead_letters.bury(transaction, "review", withdrawal(subject, 2, "poison"), "a test")
                await applier.apply(transaction, [applier.decode(withdrawal(subject, 3))])
            [(number,)] = await query(database, "SELECT id FROM dead_letters")

            async def check() -> None:
                assert await query(database, "SELECT version FROM effects ORDER BY id") == [(each,) for each in effects]
                assert await query(database, "SELECT state, settled_by FROM dead_letters") == [(state, OPS)]
                assert await query(database, "SELECT 1 FROM parked_events") == []
                assert await query(database, f"SELECT action FROM audit_trail WHERE actor = '{OPS}'") == [
                    (f"dead_letter.{state}",)
                ]

            yield Scene(lambda: settle(database, applier, number, actor=OPS, reason="a test"), check)

    return scene


# ---- replays ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def published(place: Place) -> AsyncIterator[Database]:
    """25 events that were published, and chunks of ten."""
    place.patch.setattr(outbox, "CHUNK_IDS", 10)
    async with review(place) as database:
        async with database.transaction() as transaction:
            await outbox.keep_partitions(transaction.connection, outbox.utc_day(await transaction.now()), 7)
            subject = new_id()
            for version in range(1, 26):
                event = TicketWithdrawn(ticket_no="T1", reason="r", actor="a")
                transaction.publish(event, subject=subject, version=version, time=NOW, topic=REVIEW)
        await execute(database, "UPDATE outbox SET published_at = now()")
        yield database


async def all_marked(database: Database) -> None:
    counts = "SELECT count(*), count(DISTINCT event_id), count(*) FILTER (WHERE published_at IS NULL) FROM outbox"
    assert await query(database, counts) == [(25, 25, 25)]


@asynccontextmanager
async def replayed_by_an_operator(place: Place) -> AsyncIterator[Scene]:
    async with published(place) as database:

        def note(transaction: Transaction, marked: int) -> None:
            transaction.audit("outbox.replayed", actor=OPS, subject="*", details={"marked": marked})

        async def work() -> None:
            async for _ in outbox.replay(database, Selection((REVIEW,)), noted=note):
                pass

        async def check() -> None:
            await all_marked(database)
            told = "SELECT (details::json->>'marked')::int FROM audit_trail WHERE actor = 'ops:test' ORDER BY id"
            assert await query(database, told) == [(10,), (10,), (5,)]

        yield Scene(work, check)


@asynccontextmanager
async def replayed_for_a_service(place: Place) -> AsyncIterator[Scene]:
    """As the consumer answers a request: replay first, then the transaction that remembers it."""
    async with published(place) as database:
        applier: Applier[Applied] = Applier("review", Recorder(), database)
        request = ReplayRequested(topic=REVIEW, requested_by="sla", reason="first start")
        envelope = Envelope(new_id(), "/gongdan/sla", request.TYPE, new_id(), NOW, 1)
        record = Record(CONTROL, 0, 0, b"k", tuple(envelope.headers()), request.model_dump_json().encode(), 0)
        events = [applier.decode(record)]

        async def work() -> None:
            await applier.answer_replays(events, lambda: None)
            async with database.transaction() as transaction:
                await applier.apply(transaction, events)

        async def check() -> None:
            await all_marked(database)
            await execute(database, "UPDATE outbox SET published_at = now()")
            await work()
            assert await query(database, "SELECT 1 FROM outbox WHERE published_at IS NULL") == [], "it is answered once"

        yield Scene(work, check)


# ---- pauses, key uses ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def paused(place: Place) -> AsyncIterator[Scene]:
    async with review(place) as database:

        async def check() -> None:
            assert await query(database, "SELECT topic, paused_by FROM paused_topics") == [(INTAKE, OPS)]
            assert await query(database, "SELECT action FROM audit_trail") == [("reading.paused",)]

        yield Scene(
            lambda: database.write(lambda transaction: pauses.pause(transaction, INTAKE, actor=OPS, reason="a test")),
            check,
        )


@asynccontextmanager
async def resumed(place: Place) -> AsyncIterator[Scene]:
    async with review(place) as database:
        await database.write(lambda transaction: pauses.pause(transaction, INTAKE, actor=OPS, reason="a test"))

        async def check() -> None:
            assert await query(database, "SELECT 1 FROM paused_topics") == []
            actions = await query(database, "SELECT action FROM audit_trail ORDER BY id")
            assert actions == [("reading.paused",), ("reading.resumed",)]

        yield Scene(
            lambda: database.write(lambda transaction: pauses.resume(transaction, pauses.ALL, actor=OPS, reason=None)),
            check,
        )


@asynccontextmanager
async def used(place: Place) -> AsyncIterator[Scene]:
    """A key that an earlier process saw, and that each further process sees again."""
    async with review(place) as database:

        async def store() -> None:
            uses = KeyUses(database)
            uses.note("k1")
            await uses.store()

        async def stored() -> list[datetime]:
            return [moment for (moment,) in await query(database, "SELECT last_used_at FROM key_uses")]

        await store()
        [before] = await stored()

        async def work() -> None:
            assert await stored() == [before], "a use that was stored stays until a later one takes its place"
            await store()

        async def check() -> None:
            [after] = await stored()
            assert after > before

        yield Scene(work, check)


# ---- rebuild ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def damaged(place: Place) -> AsyncIterator[Scene]:
    """Three withdrawn tickets whose rows lost what the log still tells; they are replaced one by one."""
    place.patch.setattr(rebuild, "REPLACED_AT_ONCE", 1)
    keys = {"data_key": random_key(), "index_key": random_key()}
    url = await place.databases.fresh("intake")
    async with intake(place, url, kafka_bootstrap_servers=place.broker.bootstrap, **keys) as app:
        for _ in range(3):
            await take(app, withdrawn=True)
        service = app.service
        assert service.consumer is not None
        building = service._operated(service.consumer).rebuilding
        assert building is not None
        await send_all(service.database, place.broker)
        whole = await query(service.database, "SELECT ticket_no, status, closed_at FROM tickets ORDER BY 1")
        await execute(service.database, "UPDATE tickets SET status = 'registered', closed_at = NULL")

        async def check() -> None:
            database = service.database
            assert await query(database, "SELECT ticket_no, status, closed_at FROM tickets ORDER BY 1") == whole
            replaced = "SELECT subject, count(*) FROM audit_trail WHERE action = 'read_state.replaced' GROUP BY 1"
            assert sorted(count for _, count in await query(database, replaced)) == [1, 1, 1]
            assert (await building.run(replacing=True, actor=OPS, reason="again")).differences == 0
            assert await query(database, "SELECT 1 FROM pg_namespace WHERE nspname = 'rebuild'") == []

        yield Scene(lambda: building.run(replacing=True, actor=OPS, reason="a test"), check)


async def send_all(database: Database, broker: Broker) -> None:
    """What the outbox holds, into the log."""

    async def rows(connection: Any) -> list[Any]:
        return list(await connection.execute(text("SELECT * FROM outbox ORDER BY id")))

    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all") as producer:
        for record in [as_record("intake", row) for row in await database.read(rows)]:
            await producer.send_and_wait(record.topic, key=record.key, value=record.value, headers=list(record.headers))


redriven = settled(settling.redrive, "redriven", [1, 2, 3])
discarded = settled(settling.discard, "discarded", [1, 3])

# The gap, what it is tried with, and whether it is reached again when the work is taken up again.
SCENES: list[tuple[str, SceneMaker, bool]] = [
    ("retention.written", expired, True),
    ("retention.committed", expired, True),
    ("reseal.written", resealed, True),
    ("reseal.committed", resealed, True),
    ("redrive.written", redriven, True),
    ("redrive.committed", redriven, False),
    ("discard.written", discarded, True),
    ("discard.committed", discarded, False),
    ("replay.written", replayed_by_an_operator, True),
    ("replay.committed", replayed_by_an_operator, True),
    ("replay.written", replayed_for_a_service, True),
    ("replay.committed", replayed_for_a_service, True),
    ("pause.written", paused, True),
    ("resume.written", resumed, True),
    ("key_uses.written", used, True),
    ("rebuild.shadow_made", damaged, True),
    ("rebuild.replacement_written", damaged, True),
    ("rebuild.replaced", damaged, True),
    ("rebuild.end_written", damaged, True),
]

"""The four services in one process, each on its own database; a bus carries their events instead of Kafka.

The bus reads the outboxes as the relay does and gives every record to the real consumer of each service that reads its
topic, so that versions, parking, dead letters and erasure are the real ones. Everything is done when `settle` returns.
"""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from sqlalchemy import text

from services.dispatch import app as dispatch_app
from services.dispatch.settings import Settings as DispatchSettings
from services.intake import app as intake_app
from services.intake.settings import Settings as IntakeSettings
from services.review import app as review_app
from services.review.settings import Settings as ReviewSettings
from services.sla import app as sla_app
from services.sla.settings import Settings as SlaSettings
from shared.contracts.envelope import SOURCE_PREFIX, Envelope
from shared.contracts.topics import consumed_topics
from shared.database.engine import Database
from shared.messaging import inbox
from shared.messaging.erasure import Scrubber
from shared.messaging.events import Record
from shared.messaging.inbox import Position, headers_in
from tests.support.apps import App, random_key, running_app
from tests.support.parts import Databases

BUILDS: dict[str, tuple[Any, Any]] = {
    "intake": (intake_app.build, IntakeSettings),
    "review": (review_app.build, ReviewSettings),
    "dispatch": (dispatch_app.build, DispatchSettings),
    "sla": (sla_app.build, SlaSettings),
}
LOG = "the bus"
TABLES = text(
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname <> 'calendar_days'"
    " AND relnamespace = 'public'::regnamespace AND reltuples <> 0"
)


@dataclass
class Whole:
    """The running services by name, and every record that they ever sent."""

    apps: dict[str, App]
    records: list[Record] = field(default_factory=list)
    _sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _offsets: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    async def settle(self) -> None:
        """Carry events until no outbox holds a new one, and scrub what was erased."""
        moved = True
        while moved:
            moved = False
            for name in BUILDS:
                for record in await self._new(name):
                    self.records.append(record)
                    await self.put(record)
                    moved = True
        for app in self.apps.values():
            await Scrubber(app.service.database, app.service.leases).scrub_once()

    async def put(self, record: Record) -> None:
        """A record on the bus, ours or from outside: every service that reads its topic gets it."""
        for name in BUILDS:
            if record.topic in consumed_topics(name):
                await self.deliver(name, record)

    async def deliver(self, name: str, record: Record) -> None:
        """Through the service's own consumer, as the next record of the topic's only partition."""
        consumer = self.apps[name].service.consumer
        assert consumer is not None
        offset = self._offsets[name, record.topic]
        self._offsets[name, record.topic] += 1
        position = Position(offset, LOG, None)
        async with self.apps[name].service.database.transaction() as transaction:
            await inbox.set_position(transaction.connection, record.topic, 0, position)
        consumer._positions = {TopicPartition(record.topic, 0): position}
        await consumer._store(
            [Record(record.topic, 0, offset, record.key, record.headers, record.value, record.timestamp_ms)]
        )

    async def outbox(self, name: str, after: int = 0) -> list[Any]:
        return await self.query(name, "SELECT * FROM outbox WHERE id > :after ORDER BY id", after=after)

    async def replay(self, whom: str) -> None:
        """Everything that the outboxes still keep, from the beginning, to one service."""
        for name in BUILDS:
            for row in await self.outbox(name):
                if row.topic in consumed_topics(whom):
                    await self.deliver(whom, as_record(name, row))

    async def query(self, name: str, sql: str, **values: Any) -> list[Any]:
        async def run(connection: Any) -> list[Any]:
            return list((await connection.execute(text(sql), values)).all())

        return await self.apps[name].service.database.read(run)

    async def call(self, role: str, service: str, method: str, path: str, body: Any = None, **options: Any) -> Any:
        async with self.apps[service].client(role) as client:
            return await client.request(method, path, json=body, **options)

    async def dump(self, name: str) -> dict[str, str]:
        return await dump(self.apps[name].service.database)

    async def _new(self, name: str) -> list[Record]:
        rows = await self.outbox(name, self._sent[name])
        if rows:
            self._sent[name] = rows[-1].id
        return [as_record(name, row) for row in rows]


def as_record(publisher: str, row: Any) -> Record:
    """An outbox row as the relay would send it."""
    if row.headers is not None:
        headers = tuple(headers_in(bytes(row.headers)))
    else:
        envelope = Envelope(
            row.event_id,
            f"{SOURCE_PREFIX}{publisher}",
            row.type,
            row.subject,
            row.time,
            row.version,
            1,
            row.traceparent,
        )
        headers = tuple(envelope.headers())
    return Record(row.topic, 0, 0, str(row.subject).encode(), headers, bytes(row.payload), 0)


async def dump(database: Database) -> dict[str, str]:
    """Every row of every table, as text; bytes as the text they may be."""

    async def run(connection: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for table in list((await connection.execute(TABLES)).scalars()):
            rows = await connection.execute(text(f'SELECT * FROM "{table}"'))
            found[table] = "\n".join(_readable(row._asdict()) for row in rows)
        return found

    return await database.read(run)


def _readable(row: Any) -> str:
    parts = []
    for column, value in row.items():
        shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        parts.append(f"{column}={shown}" if not isinstance(shown, dict | list) else f"{column}={shown!r}")
    return " | ".join(parts)


@asynccontextmanager
async def running_whole(databases: Databases, folder: Path, **intake: Any) -> AsyncIterator[Whole]:
    """`intake`: settings of intake besides its keys."""
    keys = {"data_key": random_key(), "index_key": random_key()} | intake
    async with AsyncExitStack() as stack:
        apps: dict[str, App] = {}
        for name in BUILDS:
            apps[name] = await stack.enter_async_context(
                running_service(databases, folder, name, **(keys if name == "intake" else {}))
            )
        yield Whole(apps)


@asynccontextmanager
async def running_service(databases: Databases, folder: Path, name: str, **more: Any) -> AsyncIterator[App]:
    """One service on a fresh database."""
    build, settings = BUILDS[name]
    url = await databases.fresh(name)
    home = folder / f"{name}-{url.rpartition('_')[2]}"
    home.mkdir()
    async with running_app(build, settings, url, home, **more) as app:
        try:
            yield app
        finally:
            await app.service.leases.close()

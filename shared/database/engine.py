"""One PostgreSQL database of a service: the pool, and the unit of work with the one commit.

A `Transaction` collects the events to publish and the rows of the audit trail, and writes both just before it commits;
leaving it with an exception rolls everything back. Use cases get a transaction and never commit.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel
from sqlalchemy import Table, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.database.columns import Json
from shared.errors import Transient
from shared.failpoints import reach
from shared.ids import new_id
from shared.subject import Subject
from shared.telemetry import metrics
from shared.telemetry.tracing import current_traceparent

T = TypeVar("T")

# Bounds in milliseconds, so that no statement, lock or forgotten transaction can hold others for long.
SERVER_SETTINGS = {
    "statement_timeout": "30000",
    "lock_timeout": "10000",
    "idle_in_transaction_session_timeout": "15000",
    "jit": "off",
    "random_page_cost": "1.1",
    "application_name": "gongdan",
}
# For work over a week of events, which takes longer than any statement on a request's way may.
LONG_STATEMENT = "10min"
POOL_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 5.0

_AWAY = (
    InterfaceError,
    OperationalError,
    PoolTimeout,
    ConnectionError,
    asyncio.TimeoutError,
    OSError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
)
# SQLSTATE classes that pass by themselves: connection, resources, operator intervention, rollback, lock not available.
_AWAY_STATES = ("08", "53", "57", "40", "55P03", "25006")
_AUDIT = text(
    "INSERT INTO audit_trail (actor, action, subject, details) SELECT * FROM unnest(CAST(:actors AS text[]),"
    " CAST(:actions AS text[]), CAST(:subjects AS text[]), CAST(:details AS text[]))"
)


class Transaction:
    """One unit of work on one connection. Nothing outside the database is called while it is open."""

    def __init__(self, connection: AsyncConnection, outbox: Table) -> None:
        self.connection = connection
        self._outbox = outbox
        self._outgoing: list[dict[str, Any]] = []
        self._audited: list[tuple[str, str, str, bytes]] = []

    @property
    def publishes(self) -> bool:
        return bool(self._outgoing)

    async def now(self) -> datetime:
        """The database's time at this statement (real time, UTC)."""
        result = await self.connection.execute(text("SELECT clock_timestamp()"))
        moment: datetime = result.scalar_one()
        return moment

    def publish(
        self,
        event: BaseModel,
        *,
        subject: UUID,
        version: int,
        time: datetime,
        topic: str | None = None,
    ) -> UUID:
        """Put an event into the outbox of this transaction and give its id.

        The row that carries the subject's version must be locked by this transaction, so that the order of the outbox
        ids of a subject is the order of its commits. `topic` defaults to the event's own.
        """
        event_id = new_id()
        self._outgoing.append(
            {
                "topic": topic or event.TOPIC,  # type: ignore[attr-defined]
                "subject": subject,
                "version": version,
                "event_id": event_id,
                "type": event.TYPE,  # type: ignore[attr-defined]
                "time": time,
                "traceparent": current_traceparent(),
                "headers": None,
                "payload": event.model_dump_json(exclude_none=True).encode(),
            }
        )
        if topic is None:
            basis = getattr(event, "basis", None)
            self.audit(
                event.TYPE,  # type: ignore[attr-defined]
                actor=getattr(event, "actor", "rules"),
                subject=str(subject),
                details={"event_id": event_id, "version": version, "rules": basis.rules if basis else ()},
            )
        return event_id

    def audit(self, action: str, *, actor: str, subject: str, details: Mapping[str, Any] | None = None) -> None:
        """Write down who did what to what, in this transaction; `details` hold ids, codes and reasons only.

        Every event published on its own topic is written down by `publish`; call this for what publishes nothing.
        """
        self._audited.append((actor, action, subject, orjson.dumps(details or {})))

    def publish_pending(self, subject: Subject) -> None:
        """Put everything the subject recorded into the outbox."""
        for item in subject.pending:
            self.publish(item.event, subject=subject.ticket_id, version=item.version, time=item.time, topic=item.topic)
        subject.pending.clear()

    def publish_raw(self, *, topic: str, key: UUID, headers: bytes, payload: bytes, at: datetime) -> None:
        """Put a record into the outbox as it is (a dead letter keeps its original bytes)."""
        self._outgoing.append(
            {
                "topic": topic,
                "subject": key,
                "version": None,
                "event_id": new_id(),
                "type": "dead.letter",
                "time": at,
                "traceparent": None,
                "headers": headers,
                "payload": payload,
            }
        )

    async def flush(self) -> None:
        if self._outgoing:
            await self.connection.execute(self._outbox.insert(), self._outgoing)
        if self._audited:
            actors, actions, subjects, details = zip(*self._audited, strict=True)
            await self.connection.execute(
                _AUDIT,
                {
                    "actors": actors,
                    "actions": actions,
                    "subjects": subjects,
                    "details": [text.decode() for text in details],
                },
            )


class Database:
    """A pool of connections for one role, so that load on one role cannot starve another."""

    def __init__(self, url: str, outbox: Table, *, pool_size: int = 5, schema: str | None = None) -> None:
        """With `schema` its connections see that schema alone."""
        settings = SERVER_SETTINGS | ({"search_path": schema} if schema else {})
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            pool_pre_ping=True,
            pool_use_lifo=True,
            json_serializer=lambda value: value if isinstance(value, Json) else orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args={"server_settings": settings, "timeout": CONNECT_TIMEOUT_SECONDS},
        )
        self._url = url
        self._outbox = outbox
        self._after_publish: list[Callable[[], None]] = []

    def apart(self) -> "Database":
        """One more connection to the same database, beside this pool; closed by whoever asked for it."""
        return Database(self._url, self._outbox, pool_size=1)

    def after_publish(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each commit that put events into the outbox."""
        self._after_publish.append(wake)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """The unit of work: commits when the block ends, rolls back when it raises.

        Raises `Transient` when the database is away or asks to try again.
        """
        try:
            async with self.engine.connect() as connection:
                async with connection.begin():
                    transaction = Transaction(connection, self._outbox)
                    yield transaction
                    await transaction.flush()
                    if transaction.publishes:
                        reach("outbox.written")
        except Exception as error:
            _count(error)
            if is_transient(error):
                raise Transient(f"database: {type(error).__name__}") from error
            raise
        if transaction.publishes:
            reach("outbox.committed")
            for wake in self._after_publish:
                wake()

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction that goes on to its end even when the caller is cancelled."""

        async def run() -> T:
            async with self.transaction() as transaction:
                return await work(transaction)

        return await asyncio.shield(asyncio.create_task(run()))

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run a query outside any transaction of ours. Raises `Transient` when the database is away."""
        try:
            async with self.engine.connect() as connection:
                return await work(connection)
        except Exception as error:
            _count(error)
            if is_transient(error):
                raise Transient(f"database: {type(error).__name__}") from error
            raise

    async def close(self) -> None:
        await self.engine.dispose()


def _count(error: BaseException) -> None:
    if isinstance(error, DBAPIError) and (state := getattr(error.orig, "sqlstate", None)):
        metrics.database_errors.labels(state).inc()


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later: the database is away, or asks to try again."""
    if isinstance(error, Transient):
        return True
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        return (
            error.connection_invalidated or state.startswith(_AWAY_STATES) or (not state and isinstance(error, _AWAY))
        )
    return isinstance(error, _AWAY)

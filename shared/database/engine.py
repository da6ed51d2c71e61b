"""One PostgreSQL database of a service: the pool, and the unit of work with the one commit.

A `Transaction` collects the events to publish and the rows of the audit trail, and writes both just before it commits;
leaving it with an exception rolls everything back. Use cases get a transaction and never commit.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel
from sqlalchemy import text

from shared.database.connection import (
    CONNECT_TIMEOUT_SECONDS,
    DRIVER_ERRORS,
    PREPARED,
    Connection,
    driver_url,
    prepare_connection,
)
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

_AWAY = (
    ConnectionError,
    asyncio.TimeoutError,
    OSError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    # A migration changed a table under a prepared statement; the next try prepares it anew.
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
# SQLSTATE classes that pass by themselves: connection, resources, operator intervention, rollback, lock not available.
_AWAY_STATES = ("08", "53", "57", "40", "55P03", "25006")
# How asyncpg begins what it says of a statement with too few or too many arguments; that has no class of its own.
_MISCOUNTED = "the server expects"
# What every transaction leaves behind, in one statement. The rows of the outbox get their ids in the order given.
_LEAVE_BEHIND = """
WITH published AS (
    INSERT INTO outbox (topic, subject, version, event_id, type, time, traceparent, headers, payload)
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::int[], $4::uuid[], $5::text[], $6::timestamptz[], $7::text[],
        $8::bytea[], $9::bytea[])
)
INSERT INTO audit_trail (actor, action, subject, details)
SELECT * FROM unnest($10::text[], $11::text[], $12::text[], $13::text[])
"""
_OUTBOX_COLUMNS, _AUDIT_COLUMNS = 9, 4


def first_events(event: type[BaseModel]) -> str:
    """The end of a statement that is a transaction by itself: for each row of its part `given` it publishes the first
    event of a subject, at the time `$1`, and writes it down in the audit trail, as `Transaction.publish` does.

    `given` has ticket_id, event_id, actor, traceparent and payload. Who runs it calls `Database.published`.
    """
    topic, kind = event.TOPIC, event.TYPE  # type: ignore[attr-defined]
    return f"""published AS (
    INSERT INTO outbox (topic, subject, version, event_id, type, time, traceparent, payload)
    SELECT '{topic}', ticket_id, 1, event_id, '{kind}', $1, nullif(traceparent, ''), payload FROM given
)
INSERT INTO audit_trail (actor, action, subject, details)
SELECT actor, '{kind}', ticket_id::text, format('{{"event_id":"%s","version":1,"rules":[]}}', event_id) FROM given
"""  # noqa: S608


class Transaction:
    """One unit of work on one connection. Nothing outside the database is called while it is open."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._outgoing: list[tuple[Any, ...]] = []
        self._audited: list[tuple[str, str, str, str]] = []

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
        payload: bytes | None = None,
    ) -> UUID:
        """Put an event into the outbox of this transaction and give its id.

        The row that carries the subject's version must be locked by this transaction, so that the order of the outbox
        ids of a subject is the order of its commits. `topic` defaults to the event's own, `payload` to its JSON.
        """
        event_id = new_id()
        self._outgoing.append(
            (
                topic or event.TOPIC,  # type: ignore[attr-defined]
                subject,
                version,
                event_id,
                event.TYPE,  # type: ignore[attr-defined]
                time,
                current_traceparent(),
                None,
                payload or payload_of(event),
            )
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
        self._audited.append((actor, action, subject, orjson.dumps(details or {}, default=str).decode()))

    def publish_pending(self, subject: Subject) -> None:
        """Put everything the subject recorded into the outbox."""
        event, payload = None, b""
        for item in subject.pending:
            # What goes to our own topic and then to a branch's is written once.
            if item.event is not event:
                event, payload = item.event, payload_of(item.event)
            self.publish(
                item.event,
                subject=subject.ticket_id,
                version=item.version,
                time=item.time,
                topic=item.topic,
                payload=payload,
            )
        subject.pending.clear()

    def publish_raw(self, *, topic: str, key: UUID, headers: bytes, payload: bytes, at: datetime) -> None:
        """Put a record into the outbox as it is (a dead letter keeps its original bytes)."""
        self._outgoing.append((topic, key, None, new_id(), "dead.letter", at, None, headers, payload))

    async def flush(self) -> None:
        """Write the events and the rows of the audit trail."""
        if self._outgoing or self._audited:
            columns = _columns(self._outgoing, _OUTBOX_COLUMNS) + _columns(self._audited, _AUDIT_COLUMNS)
            await self.connection.run(_LEAVE_BEHIND, *columns)


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    """An array a column; empty ones when there are no rows."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(count)]


def payload_of(event: BaseModel) -> bytes:
    """The event's data as it stands in a record."""
    return event.model_dump_json(exclude_none=True).encode()


class Database:
    """A pool of connections for one role, so that load on one role cannot starve another."""

    def __init__(self, url: str, *, pool_size: int = 5, schema: str | None = None) -> None:
        """With `schema` its connections see that schema alone."""
        self.url = url
        self._pool_size = pool_size
        self._settings = SERVER_SETTINGS | ({"search_path": schema} if schema else {})
        self._pool: asyncpg.Pool | None = None
        self._after_publish: list[Callable[[], None]] = []

    def apart(self) -> "Database":
        """One more connection to the same database, beside this pool; closed by whoever asked for it."""
        return Database(self.url, pool_size=1)

    def after_publish(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each commit that put events into the outbox."""
        self._after_publish.append(wake)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """The unit of work: commits when the block ends, rolls back when it raises.

        Raises `Transient` when the database is away or asks to try again.
        """
        async with self.connection() as connection:
            await connection.driver.execute("BEGIN")
            try:
                transaction = Transaction(connection)
                yield transaction
                await transaction.flush()
                if transaction.publishes:
                    reach("outbox.written")
            except BaseException:
                await _roll_back(connection)
                raise
            if await connection.driver.execute("COMMIT") != "COMMIT":
                # A failure that somebody swallowed: PostgreSQL rolled back, and says so in the status alone.
                raise asyncpg.InFailedSQLTransactionError("the transaction had failed before its commit")
        if transaction.publishes:
            self.published()

    def published(self) -> None:
        """Events are committed."""
        reach("outbox.committed")
        for wake in self._after_publish:
            wake()

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction that goes on to its end even when the caller is cancelled."""

        async def run() -> T:
            async with self.transaction() as transaction:
                return await work(transaction)

        return await asyncio.shield(asyncio.create_task(run()))

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run queries outside any transaction of ours. Raises `Transient` when the database is away."""
        async with self.connection() as connection:
            return await work(connection)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), CONNECT_TIMEOUT_SECONDS)
            except DRIVER_ERRORS:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, outside any transaction of ours.

        Raises `Transient` for what the block raises when the database is away or asks to try again.
        """
        try:
            if self._pool is None:
                self._pool = asyncpg.create_pool(
                    driver_url(self.url),
                    min_size=0,
                    max_size=self._pool_size,
                    timeout=CONNECT_TIMEOUT_SECONDS,
                    server_settings=self._settings,
                    statement_cache_size=PREPARED,
                    init=prepare_connection,
                    reset=_left_clean,
                )
            pool = await self._pool
            driver = await pool.acquire(timeout=POOL_TIMEOUT_SECONDS)
            try:
                yield Connection(driver)
            except _AWAY:
                # It may be half closed, or in the middle of an answer; nobody shall get it again.
                driver.terminate()
                raise
            finally:
                # What cannot be given back clean, the pool throws away.
                with contextlib.suppress(*DRIVER_ERRORS):
                    await pool.release(driver, timeout=POOL_TIMEOUT_SECONDS)
        except Exception as error:
            if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
                metrics.database_errors.labels(error.sqlstate).inc()
            if is_transient(error):
                raise Transient(f"database: {type(error).__name__}") from error
            raise


async def _roll_back(connection: Connection) -> None:
    with contextlib.suppress(*DRIVER_ERRORS):
        await connection.driver.execute("ROLLBACK")


async def _left_clean(driver: asyncpg.Connection) -> None:
    """No settings of a session are ever changed here; only who was cancelled twice leaves a transaction open."""
    if driver.is_in_transaction():
        await driver.execute("ROLLBACK")


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later: the database is away, or asks to try again."""
    if isinstance(error, Transient):
        return True
    if isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_AWAY_STATES):
        return True
    # asyncpg counts values of the wrong type or number as a wrong use of its interface; that will not pass.
    miscounted = isinstance(error, asyncpg.InterfaceError) and str(error).startswith(_MISCOUNTED)
    return isinstance(error, _AWAY) and not isinstance(error, ValueError) and not miscounted

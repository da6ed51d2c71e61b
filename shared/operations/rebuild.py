"""A service's read state built again from the events, beside the living one, and compared with it.

Read state is what a service holds solely because of events. The log is read from its beginning into a shadow schema,
the service's own projection carries the events out there in the order of their times, and the outcome is compared where
both sides know exactly the same versions. The service goes on meanwhile.

What must stay true:
* the shadow's connections see the schema `rebuild` alone, so that nothing can be written to a living table by mistake;
* compared and replaced is only a subject whose versions are the same on both sides, in one snapshot or under its lock;
* what was erased stays erased: such a subject is neither built nor compared;
* what is no longer in the log (retention, or the embedded broker's 5 MiB a partition) cannot be built again: such a
  subject is counted as incomplete and left as it is.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from pydantic import BaseModel
from sqlalchemy import Table, text

from shared.database.connection import Connection
from shared.database.engine import LONG_STATEMENT, Database
from shared.errors import Conflict, DomainError, Poison, Transient
from shared.failpoints import reach
from shared.messaging import inbox
from shared.messaging.application import Applier
from shared.messaging.events import Event
from shared.messaging.projection import Projection
from shared.operations.history import History

log = logging.getLogger(__name__)

SCHEMA = "rebuild"
PASSES = 3
PASS_PAUSE_SECONDS = 1.5
REPLACED_AT_ONCE = 50
NAMED = 100
# One connection holds the right to build, one works.
POOL_SIZE = 2

_LONG = text(f"SET LOCAL statement_timeout = '{LONG_STATEMENT}'")
_FORGET = text(f"DELETE FROM {SCHEMA}.comparable")  # noqa: S608


class ReadState(Protocol):
    """What of a service's rows comes from events, and how it is seeded, compared and replaced."""

    @property
    def history(self) -> Projection[Any]:
        """The service's projection, which here also carries out the service's own events where they matter."""
        ...

    @property
    def topics(self) -> Sequence[str]:
        """What must be read: the topics of the others, and the service's own."""
        ...

    @property
    def seed(self) -> str:
        """SQL that fills the shadow with the rows the service itself makes, as they were before any event."""
        ...

    @property
    def lock(self) -> str:
        """SQL that locks the living rows of the subjects `:ids`, in order."""
        ...

    @property
    def versions(self) -> str:
        """SQL giving (subject, publisher, version) of every row that is to be compared, as the living side knows it."""
        ...

    @property
    def differences(self) -> str:
        """SQL giving (subject, what) for subjects in `rebuild.comparable` that differ."""
        ...

    @property
    def replacements(self) -> Sequence[str]:
        """SQL that makes the living rows of the subjects `:ids` equal to the shadow's."""
        ...


class Difference(BaseModel):
    subject: str
    what: list[str]


class Rebuilt(BaseModel):
    """`compared` subjects, of which `differences` differ (the first 100 are named) and `replaced` were replaced.

    `incomplete`: the log no longer holds all their events; `moving`: their events were still on their way.
    """

    compared: int
    differences: int
    different: list[Difference]
    incomplete: int
    incomplete_subjects: list[str]
    moving: int
    records: int = 0
    replaced: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Rebuilding:
    """What it takes to build the read state of one service. `reader` makes a client of the broker, without a group.

    `database` writes down what was done; the work itself has connections of its own, so that requests need not wait.
    """

    service: str
    database: Database
    url: str
    outbox: Table
    state: ReadState
    reader: Callable[[], AIOKafkaConsumer]

    async def run(self, *, replacing: bool, actor: str, reason: str) -> Rebuilt:
        """Build and compare; with `replacing`, make what differs equal to what was built.

        Raises `Conflict` when another run is under way or the log cannot be read, `Transient` when a part is away.
        """
        began = time.monotonic()
        own = Database(self.url, pool_size=POOL_SIZE)
        shadow = Database(self.url, pool_size=1, schema=SCHEMA)
        try:
            async with _alone(own), self._shadow_schema(own), History(self.reader(), self.state.topics) as history:
                found = await self._build(own, shadow, history)
                if replacing:
                    found.replaced = await _replace(own, self.state, actor=actor, reason=reason)
            async with self.database.transaction() as transaction:
                details = found.model_dump(include={"compared", "differences", "incomplete", "moving", "replaced"})
                transaction.audit(
                    "read_state.built", actor=actor, subject=self.service, details=details | {"reason": reason}
                )
                reach("rebuild.end_written")
        except KafkaError as error:
            raise Transient(f"broker: {type(error).__name__}") from error
        finally:
            await shadow.close()
            await own.close()
        found.seconds = round(time.monotonic() - began, 1)
        return found

    @asynccontextmanager
    async def _shadow_schema(self, own: Database) -> AsyncIterator[None]:
        """What cannot be dropped at the end, for the database is away, is dropped at the beginning of the next run."""
        try:
            async with own.transaction() as transaction:
                await _make_shadow(transaction.connection, self.outbox.metadata.sorted_tables, self.state)
            reach("rebuild.shadow_made")
            yield
        finally:
            try:
                async with own.transaction() as transaction:
                    await transaction.connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
            except Exception as error:
                log.warning("the shadow of a rebuild is left", extra={"error": type(error).__name__})

    async def _build(self, own: Database, shadow: Database, history: History) -> Rebuilt:
        """Up to three passes, for events that are on their way meanwhile."""
        applier = Applier(self.service, self.state.history, shadow)
        records = await history.read_on(shadow)
        await _carry_out(applier, history, shadow)
        found = await _compare(own, self.state)
        for _ in range(PASSES - 1):
            if not found.incomplete and not found.moving:
                break
            await asyncio.sleep(PASS_PAUSE_SECONDS)
            records += await history.read_on(shadow)
            await _carry_out(applier, history, shadow)
            found = await _compare(own, self.state)
        found.records = records
        return found


async def _replace(database: Database, state: ReadState, *, actor: str, reason: str) -> int:
    """Under the locks that the consumer and the API take, and only where both sides still know the same versions."""
    async with database.transaction() as transaction:
        await transaction.connection.execute(_LONG)
        rows = await _rows(transaction.connection, state.differences)
    subjects = [UUID(str(row.subject)) for row in rows]
    replaced = 0
    for start in range(0, len(subjects), REPLACED_AT_ONCE):
        ids = {"ids": subjects[start : start + REPLACED_AT_ONCE]}
        async with database.transaction() as transaction:
            connection = transaction.connection
            await connection.execute(_LONG)
            await inbox.hold(connection, ids["ids"])
            await connection.execute(text(state.lock), ids)
            await connection.execute(_FORGET)
            await connection.execute(text(_comparable(state, "WHERE subject = ANY(:ids)")), ids)
            what = {row.subject: row.what for row in await connection.execute(text(state.differences))}
            for statement in state.replacements:
                await connection.execute(text(statement), {"ids": list(what)})
            for subject, parts in what.items():
                details = {"what": parts, "reason": reason}
                transaction.audit("read_state.replaced", actor=actor, subject=str(subject), details=details)
            reach("rebuild.replacement_written")
        reach("rebuild.replaced")
        replaced += len(what)
    return replaced


@asynccontextmanager
async def _alone(database: Database) -> AsyncIterator[None]:
    """Hold the one right to build. Raises `Conflict` when somebody else is at it."""
    async with database.connection() as connection:
        key = {"key": f"gongdan {SCHEMA}"}
        if not await connection.scalar(text("SELECT pg_try_advisory_lock(hashtext(:key))"), key):
            raise Conflict("rebuild_running", "a rebuild of this service is running; wait for its end")
        try:
            yield
        finally:
            await connection.execute(text("SELECT pg_advisory_unlock(hashtext(:key))"), key)


async def _make_shadow(connection: Connection, tables: Sequence[Table], state: ReadState) -> None:
    await connection.execute(_LONG)
    await connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
    await connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    for table in tables:
        await connection.execute(
            text(
                f"CREATE UNLOGGED TABLE {SCHEMA}.{table.name} (LIKE {table.name}"
                " INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING INDEXES)"
            )
        )
    await connection.execute(text(f"CREATE UNLOGGED TABLE {SCHEMA}.comparable (subject uuid PRIMARY KEY)"))
    await connection.execute(text(History.TABLE.format(schema=SCHEMA)))
    await connection.execute(text(f"INSERT INTO {SCHEMA}.erased_subjects SELECT * FROM erased_subjects"))  # noqa: S608
    await connection.execute(text(state.seed))


async def _carry_out(applier: Applier[Any], history: History, shadow: Database) -> None:
    """Carry the history out in the order of its times. What cannot be applied is left out, as it is in life."""
    while records := await history.take(shadow):
        events: list[Event] = []
        for record in records:
            try:
                events.append(applier.decode(record))
            except Poison:
                log.info("a record is left out of the rebuild", extra={"topic": record.topic, "offset": record.offset})
        try:
            await _apply(applier, shadow, events)
        except (Poison, DomainError):
            for event in events:
                try:
                    await _apply(applier, shadow, [event])
                except (Poison, DomainError):
                    log.info("an event is left out of the rebuild", extra={"event_id": event.envelope.event_id})


async def _apply(applier: Applier[Any], shadow: Database, events: Sequence[Event]) -> None:
    if events:
        async with shadow.transaction() as transaction:
            await applier.apply(transaction, events)


def _unequal(state: ReadState, where: str) -> str:
    """The streams whose last version is not the same on both sides."""
    return (
        "SELECT subject, coalesce(living.version, 0) > coalesce(built.version, 0) AS missing"  # noqa: S608
        f" FROM (SELECT * FROM ({state.versions}) AS all_living {where}) AS living"
        f" FULL JOIN (SELECT * FROM {SCHEMA}.inbox {where}) AS built USING (subject, publisher)"
        " WHERE coalesce(living.version, 0) <> coalesce(built.version, 0)"
    )


def _comparable(state: ReadState, where: str = "") -> str:
    return (
        f"INSERT INTO {SCHEMA}.comparable SELECT subject FROM ({state.versions}) AS known {where}"  # noqa: S608
        f" EXCEPT SELECT subject FROM ({_unequal(state, where)}) AS unequal EXCEPT SELECT subject FROM erased_subjects"
    )


async def _compare(database: Database, state: ReadState) -> Rebuilt:
    """In one snapshot, so that what arrives meanwhile is seen by all of it or by none."""
    left = (
        f"SELECT subject, bool_or(missing) AS missing FROM ({_unequal(state, '')}) AS unequal"  # noqa: S608
        f" WHERE subject IN (SELECT subject FROM ({state.versions}) AS known)"
        " AND subject NOT IN (SELECT subject FROM erased_subjects) GROUP BY subject ORDER BY subject"
    )
    async with database.transaction() as transaction:
        connection = transaction.connection
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await connection.execute(_LONG)
        await connection.execute(_FORGET)
        compared = (await connection.execute(text(_comparable(state)))).rowcount
        different = await _rows(connection, state.differences)
        others = await _rows(connection, left)
    incomplete = [str(row.subject) for row in others if row.missing]
    return Rebuilt(
        compared=compared,
        differences=len(different),
        different=[Difference(subject=str(row.subject), what=row.what) for row in different[:NAMED]],
        incomplete=len(incomplete),
        incomplete_subjects=incomplete[:NAMED],
        moving=len(others) - len(incomplete),
    )


async def _rows(connection: Connection, statement: str) -> list[Any]:
    return list((await connection.execute(text(statement))).all())

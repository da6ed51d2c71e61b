"""The outbox table: daily partitions, its backlog, and replay of what it keeps."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import TextClause, text

from shared.database.connection import Connection
from shared.database.engine import Database, Transaction
from shared.failpoints import reach

DAYS_AHEAD = 7
PARTITION = "outbox_p"
CHUNK_IDS = 5_000
PURGE_ROWS = 10_000

_UNMARK = text(
    "UPDATE outbox SET published_at = NULL, replayed_at = clock_timestamp()"
    " WHERE id BETWEEN :first AND :upto AND published_at IS NOT NULL"
    " AND topic = ANY(:topics) AND (CAST(:since AS timestamptz) IS NULL OR published_at >= :since)"
    " AND (CAST(:subject AS uuid) IS NULL OR subject = :subject)"
)


# `read_at` is the database's time, never later than `published_at`: a replay "since" a record's time misses nothing.
_UNPUBLISHED = """
SELECT id, created_at, topic, subject, version, event_id, type, time, traceparent, headers, payload,
    clock_timestamp() AS read_at
FROM outbox WHERE published_at IS NULL AND topic <> ALL($1::text[]) AND subject <> ALL($2::uuid[]) ORDER BY id LIMIT $3
"""
_MARK = "UPDATE outbox SET published_at = clock_timestamp() WHERE id = ANY($1) AND created_at BETWEEN $2 AND $3"


class Row(NamedTuple):
    """A row that waits to be published."""

    id: int
    created_at: datetime
    topic: str
    subject: UUID
    version: int | None
    event_id: UUID
    type: str
    time: datetime
    traceparent: str | None
    headers: bytes | None
    payload: bytes
    read_at: datetime


class Backlog(NamedTuple):
    """Unpublished events: how many (counted up to a bound), and the age of the oldest in real seconds.

    Events that are sent again are no backlog: they were published before.
    """

    waiting: int
    oldest_seconds: float


class Selection(NamedTuple):
    """What to send again: published to these topics, at or after `since` (real time), about one subject."""

    topics: tuple[str, ...]
    since: datetime | None = None
    subject: UUID | None = None


class Chunk(NamedTuple):
    """A piece of a replay: the last id looked at, how many rows were marked, and whether it was the last piece."""

    last_id: int
    marked: int
    done: bool


async def unpublished(
    connection: Connection, most: int, topics_aside: Iterable[str], subjects_aside: Iterable[UUID]
) -> list[Row]:
    """The first rows by id that wait, but for those set aside."""
    found = await connection.fetch(_UNPUBLISHED, list(topics_aside), list(subjects_aside), most)
    return [Row(*each) for each in found]


async def mark_published(connection: Connection, rows: Sequence[Row]) -> None:
    moments = [row.created_at for row in rows]
    await connection.run(_MARK, [row.id for row in rows], min(moments), max(moments))


async def backlog(connection: Connection, bound: int) -> Backlog:
    row = (
        await connection.execute(
            text(
                "SELECT count(*) AS waiting,"
                " coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0) AS oldest"
                " FROM (SELECT created_at, replayed_at FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT :bound)"
                " AS unpublished WHERE replayed_at IS NULL"
            ),
            {"bound": bound},
        )
    ).one()
    return Backlog(int(row.waiting), float(row.oldest))


def replay(
    database: Database,
    selection: Selection,
    *,
    after: int = 0,
    noted: Callable[[Transaction, int], None] = lambda transaction, marked: None,
) -> AsyncIterator[Chunk]:
    """Mark what was published as unpublished, from the id behind `after` on; the relay sends it again, in order."""
    values = {**selection._asdict(), "topics": list(selection.topics)}
    return unmark(database, _UNMARK, values, after=after, noted=noted)


async def unmark(
    database: Database,
    statement: TextClause,
    values: Mapping[str, Any],
    *,
    after: int = 0,
    noted: Callable[[Transaction, int], None] = lambda transaction, marked: None,
) -> AsyncIterator[Chunk]:
    """Run the statement over all ids behind `after`, from `:first` to `:upto` each time.

    One short transaction a chunk of ids, each told to `noted`: a week of events blocks nobody and meets no time limit.
    Stopping in between is safe, and so is beginning anew: what is marked stays marked.
    """
    first, last = await database.read(lambda connection: ids_behind(connection, after))
    while first <= last:
        upto = min(first + CHUNK_IDS - 1, last)
        async with database.transaction() as transaction:
            given = {**values, "first": first, "upto": upto}
            marked = (await transaction.connection.execute(statement, given)).rowcount
            if marked:
                noted(transaction, marked)
            reach("replay.written")
        reach("replay.committed")
        yield Chunk(upto, marked, upto == last)
        first = upto + 1


async def ids_behind(connection: Connection, after: int) -> tuple[int, int]:
    """The first and the last id behind this one; what comes later need not be sent again."""
    row = (
        await connection.execute(text("SELECT min(id), max(id) FROM outbox WHERE id > :after"), {"after": after})
    ).one()
    return (row[0], row[1]) if row[0] is not None else (1, 0)


async def keep_partitions(connection: Connection, today: date, retention_days: int) -> list[str]:
    """Make the daily partitions for the coming week and drop those past retention that hold nothing unpublished.

    Returns the names of dropped partitions. Days are UTC.
    """
    rows = await connection.execute(
        text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'outbox'::regclass")
    )
    existing = {row[0] for row in rows}
    for ahead in range(-1, DAYS_AHEAD + 1):
        day = today + timedelta(days=ahead)
        if (name := _partition(day)) not in existing:
            await connection.execute(
                text(
                    f"CREATE TABLE {name} PARTITION OF outbox FOR VALUES FROM ('{day}T00:00:00+00') "
                    f"TO ('{day + timedelta(days=1)}T00:00:00+00')"
                )
            )
            await connection.execute(
                text(
                    f"ALTER TABLE {name} SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02,"
                    " autovacuum_vacuum_insert_scale_factor = 0.1)"
                )
            )
    dropped: list[str] = []
    oldest_kept = _partition(today - timedelta(days=retention_days))
    for name in sorted(name for name in existing if name.startswith(PARTITION) and name < oldest_kept):
        waiting = await connection.execute(text(f"SELECT 1 FROM {name} WHERE published_at IS NULL LIMIT 1"))  # noqa: S608
        if waiting.first() is None:
            await connection.execute(text(f"DROP TABLE {name}"))
            dropped.append(name)
    return dropped


async def purge(database: Database) -> None:
    """Forget answers kept for retries after a week, and the ids of commands after a month (longer than topics keep)."""
    for table, key, when, age in (
        ("idempotency_keys", "client, key", "created_at", "7 days"),
        ("inbox_commands", "event_id", "seen_at", "31 days"),
    ):
        query = text(
            f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table}"  # noqa: S608
            f" WHERE {when} < now() - interval '{age}' LIMIT {PURGE_ROWS})"
        )
        gone = PURGE_ROWS
        while gone == PURGE_ROWS:
            async with database.transaction() as transaction:
                gone = (await transaction.connection.execute(query)).rowcount


def _partition(day: date) -> str:
    return f"{PARTITION}{day:%Y%m%d}"


def utc_day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()

"""The outbox table: daily partitions, its backlog, and replay of what it keeps."""

from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

DAYS_AHEAD = 7
PARTITION = "outbox_p"
# Over a week of events an update takes longer than any statement on a request's way may.
REPLAY_TIMEOUT = "10min"


class Backlog(NamedTuple):
    """Unpublished events: how many (counted up to a bound), and the age of the oldest in real seconds."""

    waiting: int
    oldest_seconds: float


async def backlog(connection: AsyncConnection, bound: int) -> Backlog:
    row = (
        await connection.execute(
            text(
                "SELECT count(*) AS waiting,"
                " coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0) AS oldest"
                " FROM (SELECT created_at FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT :bound) AS waiting"
            ),
            {"bound": bound},
        )
    ).one()
    return Backlog(int(row.waiting), float(row.oldest))


async def replay(connection: AsyncConnection, topic: str, since: datetime | None) -> int:
    """Mark what was published to `topic` since then as unpublished; the relay sends it again, in order."""
    await connection.execute(text(f"SET LOCAL statement_timeout = '{REPLAY_TIMEOUT}'"))
    result = await connection.execute(
        text(
            "UPDATE outbox SET published_at = NULL"
            " WHERE topic = :topic AND published_at IS NOT NULL"
            " AND (CAST(:since AS timestamptz) IS NULL OR published_at >= :since)"
        ),
        {"topic": topic, "since": since},
    )
    return int(result.rowcount)


async def keep_partitions(connection: AsyncConnection, today: date, retention_days: int) -> list[str]:
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


async def purge(connection: AsyncConnection) -> None:
    """Forget answers kept for retries after a week, and the ids of commands after a month (longer than topics keep)."""
    await connection.execute(text("DELETE FROM idempotency_keys WHERE created_at < now() - interval '7 days'"))
    await connection.execute(text("DELETE FROM inbox_commands WHERE seen_at < now() - interval '31 days'"))


def _partition(day: date) -> str:
    return f"{PARTITION}{day:%Y%m%d}"


def utc_day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()

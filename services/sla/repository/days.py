"""The working calendar as stored: one row a day."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Row, extract, select, text

from services.sla.tables import calendar_days
from shared.database.connection import Connection

DayRow = Row[Any]


async def all_days(connection: Connection) -> dict[date, bool]:
    """day → whether it is worked."""
    rows = await connection.execute(select(calendar_days.c.day, calendar_days.c.working))
    return {row.day: row.working for row in rows}


async def of_year(connection: Connection, year: int) -> list[DayRow]:
    query = select(calendar_days).where(extract("year", calendar_days.c.day) == year).order_by(calendar_days.c.day)
    return list((await connection.execute(query)).all())


async def add_missing(connection: Connection, days: Sequence[tuple[date, bool, str]]) -> None:
    """Store (day, worked, source) where the day is not stored yet; what an administrator changed stays."""
    await connection.execute(
        text(
            "INSERT INTO calendar_days (day, working, source) SELECT * FROM"
            " unnest(CAST(:days AS date[]), CAST(:working AS boolean[]), CAST(:sources AS text[]))"
            " ON CONFLICT (day) DO NOTHING"
        ),
        {
            "days": [day for day, _, _ in days],
            "working": [working for _, working, _ in days],
            "sources": [source for _, _, source in days],
        },
    )


async def set_day(connection: Connection, day: date, working: bool, source: str, actor: str, now: datetime) -> DayRow:
    rows = await connection.execute(
        text(
            "INSERT INTO calendar_days (day, working, source, changed_by, changed_at)"
            " VALUES (:day, :working, :source, :actor, :now) ON CONFLICT (day) DO UPDATE"
            " SET working = excluded.working, source = excluded.source,"
            " changed_by = excluded.changed_by, changed_at = excluded.changed_at RETURNING *"
        ),
        {"day": day, "working": working, "source": source, "actor": actor, "now": now},
    )
    day_row: DayRow = rows.one()
    return day_row

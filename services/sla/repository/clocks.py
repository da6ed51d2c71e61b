"""Clock runs: what is due, and saving what changed. The facts of the ticket must be locked before its runs change."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, select, text, update

from services.sla.domain.records import ClockRun, ClockState
from services.sla.tables import clocks
from shared.database.connection import Connection

ClockRow = Row[Any]

_COLUMNS = [
    name for name in clocks.c.keys() if name not in ("clock_id", "ticket_id", "kind", "cycle", "next_at", "state")
]


def to_run(row: ClockRow) -> ClockRun:
    values = row._asdict()
    del values["next_at"]
    values["state"] = ClockState(row.state)
    return ClockRun(**values)


async def open_of(connection: Connection, ticket_ids: Iterable[UUID], until: datetime | None = None) -> list[ClockRun]:
    """The runs of these tickets to which something may still happen; only those due by `until` where it is given."""
    query = select(clocks).where(clocks.c.ticket_id == text("ANY(:ids)"), clocks.c.stopped_at.is_(None))
    if until is not None:
        query = query.where(clocks.c.next_at <= until)
    rows = await connection.execute(query.order_by(clocks.c.ticket_id, clocks.c.clock_id), {"ids": list(ticket_ids)})
    return [to_run(row) for row in rows]


async def of_ticket(connection: Connection, ticket_id: UUID) -> list[ClockRow]:
    rows = await connection.execute(
        select(clocks)
        .where(clocks.c.ticket_id == ticket_id)
        .order_by(clocks.c.started_at, clocks.c.kind, clocks.c.cycle)
    )
    return list(rows.all())


async def due_candidates(
    connection: Connection, now: datetime, limit: int, without: Iterable[UUID] = ()
) -> list[tuple[UUID, datetime]]:
    """(ticket, moment) of what is due, the earliest first, without locking anything; some tickets may be left out."""
    rows = await connection.execute(
        text(
            "SELECT ticket_id, next_at FROM clocks WHERE next_at <= :now AND ticket_id <> ALL(:without)"
            " ORDER BY next_at LIMIT :limit"
        ),
        {"now": now, "limit": limit, "without": list(without)},
    )
    return [(row.ticket_id, row.next_at) for row in rows]


async def next_due(connection: Connection) -> datetime | None:
    """The earliest moment at which anything is due (business time), None when nothing is."""
    moment: datetime | None = (
        await connection.execute(text("SELECT next_at FROM clocks WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 1"))
    ).scalar_one_or_none()
    return moment


async def provisional_after(connection: Connection, ticket_id: UUID | None, limit: int) -> list[UUID]:
    """The next tickets, in id order, with running clocks that rest on computed calendar days."""
    rows = await connection.execute(
        text(
            "SELECT DISTINCT ticket_id FROM clocks WHERE provisional AND next_at IS NOT NULL"
            " AND (CAST(:after AS uuid) IS NULL OR ticket_id > :after) ORDER BY ticket_id LIMIT :limit"
        ),
        {"after": ticket_id, "limit": limit},
    )
    return [row.ticket_id for row in rows]


async def due_soon(
    connection: Connection, now: datetime, until: datetime, branch: str | None, limit: int
) -> list[ClockRow]:
    """Running clocks whose deadline comes until then, the next first; with the ticket's number and branch."""
    rows = await connection.execute(
        text(
            "SELECT c.*, f.ticket_no, f.branch FROM clocks AS c JOIN complaint_facts AS f USING (ticket_id)"
            " WHERE c.next_at IS NOT NULL AND c.next_at <= CAST(:until AS timestamptz) + interval '1 microsecond'"
            " AND c.state = 'running' AND c.due_at > :now AND c.due_at <= :until"
            " AND (CAST(:branch AS text) IS NULL OR f.branch = :branch) ORDER BY c.due_at LIMIT :limit"
        ),
        {"now": now, "until": until, "branch": branch, "limit": limit},
    )
    return list(rows.all())


_UPDATE = (
    update(clocks)
    .where(clocks.c.clock_id == bindparam("id"))
    .values({name: bindparam(f"new_{name}") for name in (*_COLUMNS, "next_at", "state")})
)


async def save(connection: Connection, runs: Sequence[ClockRun]) -> None:
    """Insert what is new, update what changed."""
    fresh = [
        _values(run) | {"clock_id": run.clock_id, "ticket_id": run.ticket_id, "kind": run.kind, "cycle": run.cycle}
        for run in runs
        if run.is_new
    ]
    if fresh:
        await connection.execute(clocks.insert(), fresh)
    old = [
        {"id": run.clock_id} | {f"new_{name}": value for name, value in _values(run).items()}
        for run in runs
        if run.changed and not run.is_new
    ]
    if old:
        await connection.execute(_UPDATE, old)


def _values(run: ClockRun) -> dict[str, Any]:
    return {"next_at": run.next_at, "state": run.state, **{name: getattr(run, name) for name in _COLUMNS}}

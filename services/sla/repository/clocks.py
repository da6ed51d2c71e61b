"""Clock runs: what is due, and saving what changed. The facts of the ticket must be locked before its runs change."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, select, text

from services.sla.domain.records import ClockRun, ClockState
from services.sla.tables import clocks
from shared.database import arrays
from shared.database.columns import Json
from shared.database.connection import Connection

ClockRow = Row[Any]

# In the order of the fields of `ClockRun`.
_OPEN = """
SELECT clock_id, ticket_id, kind, cycle, rule, started_at, opened_at, ladder_from, due_at, warn_at, state, boundary,
    soft, on_breach, ladder, provisional, counted_seconds, excluded_seconds, explanation, warned_at, breached_at,
    stopped_at, rung, rung_at, acknowledged_by, acknowledged_at
FROM clocks WHERE ticket_id = ANY($1::uuid[]) AND stopped_at IS NULL
"""
_ORDER = " ORDER BY ticket_id, clock_id"
_OPEN_OF = _OPEN + _ORDER
_OPEN_OF_KINDS = f"{_OPEN} AND kind = ANY($2::text[]){_ORDER}"
_OPEN_UNTIL = f"{_OPEN} AND next_at <= $2{_ORDER}"

_DUE = (
    "SELECT ticket_id, next_at FROM clocks WHERE next_at <= $1 AND ticket_id <> ALL($2::uuid[])"
    " ORDER BY next_at LIMIT $3"
)
_NEXT = "SELECT next_at FROM clocks WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 1"

_MOVES: arrays.Columns = {
    "clock_id": "uuid",
    "state": "text",
    "next_at": "timestamptz",
    "warned_at": "timestamptz",
    "breached_at": "timestamptz",
    "stopped_at": "timestamptz",
    "rung": "smallint",
    "rung_at": "timestamptz",
    "acknowledged_by": "text",
    "acknowledged_at": "timestamptz",
}
"""What happens to a run. The rest is written anew only where its deadline is another one."""

_DEADLINE: arrays.Columns = {
    **_MOVES,
    "rule": "text",
    "ladder_from": "timestamptz",
    "due_at": "timestamptz",
    "warn_at": "timestamptz",
    "provisional": "boolean",
    "counted_seconds": "float8",
    "excluded_seconds": "float8",
    "explanation": "jsonb",
}
_FIXED = ("ticket_id", "kind", "cycle", "started_at", "opened_at", "boundary", "soft", "on_breach", "ladder")
_UPDATE_MOVES = arrays.update("clocks", _MOVES)
_UPDATE_DEADLINE = arrays.update("clocks", _DEADLINE)


async def open_of(
    connection: Connection,
    ticket_ids: Iterable[UUID],
    *,
    until: datetime | None = None,
    kinds: Collection[str] | None = None,
) -> list[ClockRun]:
    """The runs of these tickets to which something may still happen; only those due by `until`, or of these kinds,
    where one of the two is given."""
    ids = list(ticket_ids)
    if until is not None:
        rows = await connection.fetch(_OPEN_UNTIL, ids, until)
    elif kinds is not None:
        rows = await connection.fetch(_OPEN_OF_KINDS, ids, list(kinds))
    else:
        rows = await connection.fetch(_OPEN_OF, ids)
    runs = [ClockRun(*row) for row in rows]
    for run in runs:
        run.state = ClockState(run.state)
    return runs


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
    return [(row[0], row[1]) for row in await connection.fetch(_DUE, now, list(without), limit)]


async def next_due(connection: Connection) -> datetime | None:
    """The earliest moment at which anything is due (business time), None when nothing is."""
    rows = await connection.fetch(_NEXT)
    return rows[0][0] if rows else None


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


_moves = attrgetter(*_MOVES)
_deadline = attrgetter(*[name for name in _DEADLINE if name != "explanation"])
_fixed = attrgetter(*_FIXED)


async def save(connection: Connection, runs: Sequence[ClockRun]) -> None:
    """Insert what is new, update what changed."""
    fresh = [(*_deadline(run), _explanation(run), *_fixed(run)) for run in runs if run.is_new]
    if fresh:
        await connection.copy("clocks", (*_DEADLINE, *_FIXED), fresh)
    old = [run for run in runs if run.changed and not run.is_new]
    if moved := [_moves(run) for run in old if not run.redated]:
        await connection.run(_UPDATE_MOVES, *arrays.by_column(moved))
    if redated := [(*_deadline(run), _explanation(run)) for run in old if run.redated]:
        await connection.run(_UPDATE_DEADLINE, *arrays.by_column(redated))


def _explanation(run: ClockRun) -> Json:
    return Json(orjson.dumps(run.explanation).decode())

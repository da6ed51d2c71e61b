"""Incidents and escalations."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text

from services.sla.domain.records import Escalation, EscalationStatus, Incident, IncidentStatus
from services.sla.repository.near import to_incident
from services.sla.tables import complaint_facts, escalations, incidents
from shared.database import arrays
from shared.database.columns import Json
from shared.database.connection import Connection

IncidentRow = Row[Any]
EscalationRow = Row[Any]

_MOVES: arrays.Columns = {
    "incident_id": "uuid",
    "status": "text",
    "version": "int",
    "first_at": "timestamptz",
    "last_at": "timestamptz",
    "closed_at": "timestamptz",
    "member_count": "int",
}
_moves = attrgetter(*_MOVES)
_UPDATE = arrays.update("incidents", _MOVES)
_NEW = (*_MOVES, "problem_key", "problem_parts", "opened_at")
_ESCALATION = (
    "escalation_id",
    "ticket_id",
    "ticket_no",
    "clock_id",
    "incident_id",
    "kind",
    "rung",
    "status",
    "event",
    "raised_at",
)
_SETTLE = """
UPDATE escalations SET status = 'settled', settled_at = $4
WHERE status = 'open' AND ticket_id = ANY($1::uuid[]) AND (clock_id = ANY($2::uuid[]) OR ticket_id = ANY($3::uuid[]))
"""


async def open_incident(connection: Connection, key: str) -> Incident | None:
    rows = await connection.fetch("SELECT * FROM incidents WHERE problem_key = $1 AND status = 'open'", key)
    return to_incident(rows[0]) if rows else None


async def quiet_problems(connection: Connection, now: datetime, quiet: timedelta, limit: int) -> list[str]:
    """Problems whose open incident had no new member for the quiet time."""
    rows = await connection.execute(
        text(
            "SELECT problem_key FROM incidents WHERE status = 'open' AND last_at < :before"
            " ORDER BY last_at LIMIT :limit"
        ),
        {"before": now - quiet, "limit": limit},
    )
    return [row.problem_key for row in rows]


async def save(connection: Connection, changed: Sequence[Incident]) -> None:
    """Update what changed, then insert what is new: the open incident of a problem closes before the next is stored."""
    if old := [_moves(each) for each in changed if not each.is_new]:
        await connection.run(_UPDATE, *arrays.by_column(old))
    fresh = [(*_moves(each), each.problem.key, each.problem.parts, each.opened_at) for each in changed if each.is_new]
    if fresh:
        await connection.copy("incidents", _NEW, fresh)


async def find_incident(connection: Connection, incident_id: UUID) -> IncidentRow | None:
    return (await connection.execute(select(incidents).where(incidents.c.incident_id == incident_id))).first()


async def page_incidents(
    connection: Connection, status: IncidentStatus | None, before: UUID | None, limit: int
) -> list[IncidentRow]:
    """Newest first."""
    query = select(incidents).order_by(incidents.c.incident_id.desc()).limit(limit)
    if status is not None:
        query = query.where(incidents.c.status == status)
    if before is not None:
        query = query.where(incidents.c.incident_id < before)
    return list((await connection.execute(query)).all())


async def members(connection: Connection, incident_id: UUID, before: UUID | None, limit: int) -> list[Row[Any]]:
    """The members of an incident, newest ticket first."""
    rows = await connection.execute(
        text(
            "SELECT ticket_id, ticket_no, accepted_at, vip, branch, ended FROM complaint_facts"
            " WHERE incident_id = :id AND (CAST(:before AS uuid) IS NULL OR ticket_id < :before)"
            " ORDER BY ticket_id DESC LIMIT :limit"
        ),
        {"id": incident_id, "before": before, "limit": limit},
    )
    return list(rows.all())


# ---- escalations -----------------------------------------------------------------------------------------------------


async def add_escalations(connection: Connection, raised: Sequence[Escalation]) -> None:
    rows = [
        (
            each.event.escalation_id,
            each.ticket_id,
            each.event.ticket_no,
            each.clock_id,
            each.event.incident_id,
            each.event.kind,
            each.event.rung,
            EscalationStatus.open,
            Json.of(each.event),
            each.raised_at,
        )
        for each in raised
    ]
    await connection.copy("escalations", _ESCALATION, rows)


async def settle(
    connection: Connection, clock_tickets: Sequence[tuple[UUID, UUID]], ended: Sequence[UUID], now: datetime
) -> None:
    """What these clocks, given as (ticket, clock), or these tickets were escalated for has come to its end."""
    tickets = sorted({ticket for ticket, _ in clock_tickets} | set(ended))
    await connection.run(_SETTLE, tickets, [clock for _, clock in clock_tickets], list(ended), now)


async def find_escalation(connection: Connection, escalation_id: UUID) -> EscalationRow | None:
    query = select(escalations).where(escalations.c.escalation_id == escalation_id)
    return (await connection.execute(query)).first()


async def acknowledge(connection: Connection, row: EscalationRow, actor: str, now: datetime) -> None:
    """This escalation, and every other open one of the same clock: whoever answers a rung answers those below."""
    await connection.execute(
        text(
            "UPDATE escalations SET status = 'acknowledged', acknowledged_by = :actor, acknowledged_at = :now"
            " WHERE status = 'open' AND ticket_id = :ticket AND (escalation_id = :id OR clock_id = :clock)"
        ),
        {"actor": actor, "now": now, "ticket": row.ticket_id, "id": row.escalation_id, "clock": row.clock_id},
    )


async def escalations_of(connection: Connection, ticket_id: UUID, limit: int) -> list[EscalationRow]:
    """The latest of a ticket, the oldest of them first."""
    query = select(escalations).where(escalations.c.ticket_id == ticket_id)
    rows = await connection.execute(query.order_by(escalations.c.escalation_id.desc()).limit(limit))
    return list(reversed(rows.all()))


async def page_escalations(
    connection: Connection, status: EscalationStatus | None, branch: str | None, before: UUID | None, limit: int
) -> list[EscalationRow]:
    """Newest first; those of one branch's tickets when a branch is given."""
    query = select(escalations).order_by(escalations.c.escalation_id.desc()).limit(limit)
    if status is EscalationStatus.open:
        # Written out, so that the partial index serves it.
        query = query.where(text("escalations.status = 'open'"))
    elif status is not None:
        query = query.where(escalations.c.status == status)
    if branch is not None:
        query = query.join(complaint_facts, complaint_facts.c.ticket_id == escalations.c.ticket_id)
        query = query.where(complaint_facts.c.branch == branch)
    if before is not None:
        query = query.where(escalations.c.escalation_id < before)
    return list((await connection.execute(query)).all())

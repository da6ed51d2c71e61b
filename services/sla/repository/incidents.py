"""Incidents and escalations."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, select, text, update

from services.sla.domain.records import Escalation, EscalationStatus, Incident, IncidentStatus
from services.sla.tables import complaint_facts, escalations, incidents
from shared.contracts.sla import Problem
from shared.database.connection import Connection

IncidentRow = Row[Any]
EscalationRow = Row[Any]
INCIDENTS_A_SPAN = 50


def to_incident(row: IncidentRow) -> Incident:
    return Incident(
        ticket_id=row.incident_id,
        version=row.version,
        problem=Problem(key=row.problem_key, parts=row.problem_parts),
        status=IncidentStatus(row.status),
        first_at=row.first_at,
        last_at=row.last_at,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        member_count=row.member_count,
    )


async def near(connection: Connection, spans: Sequence[tuple[str, datetime, datetime]]) -> dict[str, list[Incident]]:
    """For each (problem, from, until): the incidents that reach into it by event time; and of each problem the open
    one, which must close before another may open. By problem, the latest first. The problems are locked."""
    rows = await connection.execute(
        text(
            "SELECT found.* FROM unnest(CAST(:keys AS text[]), CAST(:lows AS timestamptz[]),"
            " CAST(:highs AS timestamptz[])) AS wanted(key, low, high),"
            " LATERAL (SELECT * FROM incidents AS i WHERE i.problem_key = wanted.key AND i.last_at >= wanted.low"
            " AND i.first_at <= wanted.high ORDER BY i.last_at LIMIT :limit) AS found"
            " UNION ALL SELECT * FROM incidents WHERE problem_key = ANY(CAST(:keys AS text[])) AND status = 'open'"
        ),
        {
            "keys": [key for key, _, _ in spans],
            "lows": [low for _, low, _ in spans],
            "highs": [high for _, _, high in spans],
            "limit": INCIDENTS_A_SPAN,
        },
    )
    found: dict[str, list[Incident]] = {}
    for row in sorted({row.incident_id: row for row in rows}.values(), key=lambda row: row.last_at, reverse=True):
        found.setdefault(row.problem_key, []).append(to_incident(row))
    return found


async def open_incident(connection: Connection, key: str) -> Incident | None:
    rows = await connection.execute(
        select(incidents).where(incidents.c.problem_key == key, incidents.c.status == IncidentStatus.open)
    )
    row = rows.first()
    return to_incident(row) if row is not None else None


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


_UPDATE = (
    update(incidents)
    .where(incidents.c.incident_id == bindparam("id"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in ("status", "version", "first_at", "last_at", "closed_at", "member_count")
        }
    )
)


async def save(connection: Connection, changed: Sequence[Incident]) -> None:
    """Update what changed, then insert what is new: the open incident of a problem closes before the next is stored."""
    old = [
        {"id": each.incident_id} | {f"new_{name}": value for name, value in _values(each).items()}
        for each in changed
        if not each.is_new
    ]
    if old:
        await connection.execute(_UPDATE, old)
    fresh = [
        _values(each)
        | {
            "incident_id": each.incident_id,
            "problem_key": each.problem.key,
            "problem_parts": each.problem.parts,
            "opened_at": each.opened_at,
        }
        for each in changed
        if each.is_new
    ]
    if fresh:
        await connection.execute(incidents.insert(), fresh)


def _values(incident: Incident) -> dict[str, Any]:
    return {
        "status": incident.status,
        "version": incident.version,
        "first_at": incident.first_at,
        "last_at": incident.last_at,
        "closed_at": incident.closed_at,
        "member_count": incident.member_count,
    }


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
    await connection.execute(
        escalations.insert(),
        [
            {
                "escalation_id": each.event.escalation_id,
                "ticket_id": each.ticket_id,
                "ticket_no": each.event.ticket_no,
                "clock_id": each.clock_id,
                "incident_id": each.event.incident_id,
                "kind": each.event.kind,
                "rung": each.event.rung,
                "status": EscalationStatus.open,
                "event": each.event.model_dump(mode="json", exclude_none=True),
                "raised_at": each.raised_at,
            }
            for each in raised
        ],
    )


async def settle(
    connection: Connection, clock_tickets: Sequence[tuple[UUID, UUID]], ended: Sequence[UUID], now: datetime
) -> None:
    """What these clocks, given as (ticket, clock), or these tickets were escalated for has come to its end."""
    await connection.execute(
        text(
            "UPDATE escalations SET status = 'settled', settled_at = :now"
            " WHERE status = 'open' AND ticket_id = ANY(:tickets)"
            " AND (clock_id = ANY(:clocks) OR ticket_id = ANY(:ended))"
        ),
        {
            "now": now,
            "tickets": sorted({ticket for ticket, _ in clock_tickets} | set(ended)),
            "clocks": [clock for _, clock in clock_tickets],
            "ended": list(ended),
        },
    )


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

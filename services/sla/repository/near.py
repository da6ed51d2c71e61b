"""What lies near complaints of one problem in time: its incidents, and other complaints. Every query reads a bounded
number of rows."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.sla.domain.records import Incident, IncidentStatus
from shared.contracts.sla import Problem
from shared.database.connection import Connection
from shared.policy import Complaint

NEAR_LIMIT = 1000
"""Complaints of one problem looked at around one moment. Far more than any threshold: past it there is an incident."""
CHAIN_LIMIT = 500
"""Steps of a chain of loose complaints; each step passes all that lie within the quiet time."""
INCIDENTS_A_SPAN = 50

Span = tuple[str, datetime, datetime]
"""A problem, from, until."""

# Ordered as `ix_complaint_facts_alone` is and no other: the index of all complaints of a problem looks as cheap while
# few belong to an incident, and holds thousands of members where it counts (12 → 500 µs of PostgreSQL a ticket).
LOOSE = """
SELECT wanted.key, found.* FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS wanted(key, low, high),
LATERAL (
    SELECT ticket_id, customer_key, vip, accepted_at FROM complaint_facts AS f
    WHERE f.problem_key = wanted.key AND f.counts AND f.incident_id IS NULL AND f.accepted_at > wanted.low
    AND f.accepted_at < wanted.high ORDER BY f.accepted_at, f.ticket_id LIMIT $4
) AS found
"""
_INCIDENT = (
    "incident_id, version, problem_key, problem_parts, status, first_at, last_at, opened_at, closed_at, member_count"
)
# Incidents and loose complaints in one look: first the columns of the one, then those of the other.
_SURROUNDINGS = f"""
SELECT found.*, NULL::text AS key, NULL::uuid AS ticket_id, NULL::text AS customer_key, NULL::boolean AS vip,
    NULL::timestamptz AS accepted_at
FROM unnest($1::text[], $5::timestamptz[], $6::timestamptz[]) AS wanted(key, low, high),
LATERAL (
    SELECT {_INCIDENT} FROM incidents AS i WHERE i.problem_key = wanted.key AND i.last_at >= wanted.low
    AND i.first_at <= wanted.high ORDER BY i.last_at LIMIT $7
) AS found
UNION ALL
SELECT {_INCIDENT}, NULL, NULL, NULL, NULL, NULL FROM incidents
WHERE problem_key = ANY($1::text[]) AND status = 'open'
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, loose.* FROM ({LOOSE}) AS loose
"""  # noqa: S608
_CHAINS = """
WITH RECURSIVE chain(place, key, at, step) AS (
    SELECT place, key, at, 0 FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS wanted(key, at, place)
    UNION ALL
    SELECT chain.place, chain.key, further.accepted_at, chain.step + 1 FROM chain,
    LATERAL (
        SELECT f.accepted_at FROM complaint_facts AS f WHERE f.problem_key = chain.key AND f.counts
        AND f.incident_id IS NULL AND f.accepted_at > chain.at AND f.accepted_at <= chain.at + $3::interval
        ORDER BY f.accepted_at DESC, f.ticket_id DESC LIMIT 1
    ) AS further WHERE chain.step < $4
)
SELECT max(at) AS last_at FROM chain GROUP BY place ORDER BY place
"""
_NEAR = """
SELECT wanted.key, found.* FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS wanted(key, low, high),
LATERAL (
    SELECT ticket_id, customer_key, vip, accepted_at, incident_id FROM complaint_facts AS f
    WHERE f.problem_key = wanted.key AND f.counts AND f.accepted_at > wanted.low
    AND f.accepted_at < wanted.high ORDER BY f.accepted_at LIMIT $4
) AS found
"""


def to_incident(row: Any) -> Incident:
    return Incident(
        ticket_id=row["incident_id"],
        version=row["version"],
        problem=Problem(key=row["problem_key"], parts=row["problem_parts"]),
        status=IncidentStatus(row["status"]),
        first_at=row["first_at"],
        last_at=row["last_at"],
        opened_at=row["opened_at"],
        closed_at=row["closed_at"],
        member_count=row["member_count"],
    )


async def surroundings(
    connection: Connection, spans: Sequence[Span], further: Sequence[tuple[datetime, datetime]]
) -> tuple[dict[str, list[Incident]], list[tuple[str, Complaint]]]:
    """For each span: the complaints accepted strictly between that belong to no incident. And the incidents that reach
    by event time into what `further` says in its place (from, until); of each problem also the open one, which must
    close before another may open. Incidents by problem, the latest first. The problems are locked."""
    rows = await connection.fetch(
        _SURROUNDINGS,
        *_columns(spans),
        NEAR_LIMIT,
        [low for low, _ in further],
        [high for _, high in further],
        INCIDENTS_A_SPAN,
    )
    known = {row["incident_id"]: row for row in rows if row["incident_id"] is not None}
    incidents: dict[str, list[Incident]] = {}
    for row in sorted(known.values(), key=lambda row: row["last_at"], reverse=True):
        incidents.setdefault(row["problem_key"], []).append(to_incident(row))
    loose = [(row["key"], _complaint(row)) for row in rows if row["incident_id"] is None]
    return incidents, loose


async def loose_complaints(connection: Connection, spans: Sequence[Span]) -> list[tuple[str, Complaint]]:
    """The complaints accepted strictly between that belong to no incident."""
    rows = await connection.fetch(LOOSE, *_columns(spans), NEAR_LIMIT)
    return [(row["key"], _complaint(row)) for row in rows]


async def loose_chains(
    connection: Connection, starts: Sequence[tuple[str, datetime]], quiet: timedelta
) -> list[datetime]:
    """For each (problem, moment): the last of the loose complaints after it of which each comes within the quiet time
    of the one before; the moment itself where none does."""
    rows = await connection.fetch(_CHAINS, [key for key, _ in starts], [at for _, at in starts], quiet, CHAIN_LIMIT)
    return [row["last_at"] for row in rows]


async def complaints_near(connection: Connection, spans: Sequence[Span]) -> list[tuple[str, Complaint, UUID | None]]:
    """The complaints accepted strictly between, each with its incident."""
    rows = await connection.fetch(_NEAR, *_columns(spans), NEAR_LIMIT)
    return [(row["key"], _complaint(row), row["incident_id"]) for row in rows]


def _complaint(row: Any) -> Complaint:
    return Complaint(row["ticket_id"], row["customer_key"], row["vip"], row["accepted_at"])


def _columns(spans: Sequence[Span]) -> tuple[list[str], list[datetime], list[datetime]]:
    return [key for key, _, _ in spans], [low for _, low, _ in spans], [high for _, _, high in spans]

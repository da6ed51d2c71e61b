"""Complaints of one problem that lie near in time. Every query reads a bounded number of rows."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from shared.database.connection import Connection
from shared.policy import Complaint

NEAR_LIMIT = 1000
"""Complaints of one problem looked at around one moment. Far more than any threshold: past it there is an incident."""
CHAIN_LIMIT = 500
"""Steps of a chain of loose complaints; each step passes all that lie within the quiet time."""

Span = tuple[str, datetime, datetime]
"""A problem, from, until."""


async def loose_complaints(connection: Connection, spans: Sequence[Span]) -> list[tuple[str, Complaint]]:
    """The complaints accepted strictly between that belong to no incident."""
    rows = await connection.execute(
        text(
            "SELECT wanted.key, found.* FROM unnest(CAST(:keys AS text[]), CAST(:lows AS timestamptz[]),"
            " CAST(:highs AS timestamptz[])) AS wanted(key, low, high),"
            " LATERAL (SELECT ticket_id, customer_key, vip, accepted_at FROM complaint_facts AS f"
            " WHERE f.problem_key = wanted.key AND f.counts AND f.incident_id IS NULL AND f.accepted_at > wanted.low"
            " AND f.accepted_at < wanted.high ORDER BY f.accepted_at LIMIT :limit) AS found"
        ),
        _spans(spans),
    )
    return [(row.key, Complaint(row.ticket_id, row.customer_key, row.vip, row.accepted_at)) for row in rows]


async def loose_chains(
    connection: Connection, starts: Sequence[tuple[str, datetime]], quiet: timedelta
) -> list[datetime]:
    """For each (problem, moment): the last of the loose complaints after it of which each comes within the quiet time
    of the one before; the moment itself where none does."""
    rows = await connection.execute(
        text(
            "WITH RECURSIVE chain(place, key, at, step) AS ("
            " SELECT place, key, at, 0 FROM unnest(CAST(:keys AS text[]), CAST(:moments AS timestamptz[]))"
            " WITH ORDINALITY AS wanted(key, at, place)"
            " UNION ALL"
            " SELECT chain.place, chain.key, further.accepted_at, chain.step + 1 FROM chain,"
            " LATERAL (SELECT f.accepted_at FROM complaint_facts AS f WHERE f.problem_key = chain.key AND f.counts"
            " AND f.incident_id IS NULL AND f.accepted_at > chain.at"
            " AND f.accepted_at <= chain.at + CAST(:quiet AS interval)"
            " ORDER BY f.accepted_at DESC LIMIT 1) AS further WHERE chain.step < :limit)"
            " SELECT max(at) AS last_at FROM chain GROUP BY place ORDER BY place"
        ),
        {
            "keys": [key for key, _ in starts],
            "moments": [at for _, at in starts],
            "quiet": quiet,
            "limit": CHAIN_LIMIT,
        },
    )
    return [row.last_at for row in rows]


async def complaints_near(connection: Connection, spans: Sequence[Span]) -> list[tuple[str, Complaint, UUID | None]]:
    """The complaints accepted strictly between, each with its incident."""
    rows = await connection.execute(
        text(
            "SELECT wanted.key, found.* FROM unnest(CAST(:keys AS text[]), CAST(:lows AS timestamptz[]),"
            " CAST(:highs AS timestamptz[])) AS wanted(key, low, high),"
            " LATERAL (SELECT ticket_id, customer_key, vip, accepted_at, incident_id FROM complaint_facts AS f"
            " WHERE f.problem_key = wanted.key AND f.counts AND f.accepted_at > wanted.low"
            " AND f.accepted_at < wanted.high ORDER BY f.accepted_at LIMIT :limit) AS found"
        ),
        _spans(spans),
    )
    return [
        (row.key, Complaint(row.ticket_id, row.customer_key, row.vip, row.accepted_at), row.incident_id) for row in rows
    ]


def _spans(spans: Sequence[Span]) -> dict[str, object]:
    return {
        "keys": [key for key, _, _ in spans],
        "lows": [low for _, low, _ in spans],
        "highs": [high for _, _, high in spans],
        "limit": NEAR_LIMIT,
    }

"""What else a customer complained of: for repeats and appeals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from services.sla.domain.detection import Earlier
from shared.contracts.ticket import TicketRef
from shared.database.connection import Connection

LATEST = 20
"""So many tickets are looked at, of each customer and kind of question."""

# A customer of whom nothing is stored, as nearly all, costs one look at an index.
_HISTORY = """
WITH known AS MATERIALIZED (
    SELECT customer_key FROM (SELECT unnest($1::text[]) UNION SELECT unnest($4::text[])) AS named(customer_key)
    WHERE EXISTS (SELECT FROM complaint_facts AS f WHERE f.customer_key = named.customer_key)
)
SELECT 'archived', wanted.customer_key, found.* FROM known
JOIN unnest($1::text[], $2::text[]) AS wanted(customer_key, problem_key) USING (customer_key),
LATERAL (
    SELECT problem_key, ticket_id, ticket_no, accepted_at, archived_at FROM complaint_facts AS f
    WHERE f.customer_key = wanted.customer_key AND f.problem_key = wanted.problem_key
    AND f.archived_at IS NOT NULL AND f.archived_at >= $3 ORDER BY f.archived_at DESC LIMIT $7
) AS found
UNION ALL
SELECT 'accepted', wanted.customer_key, found.* FROM known
JOIN unnest($4::text[], $5::timestamptz[]) AS wanted(customer_key, at) USING (customer_key),
LATERAL (
    SELECT problem_key, ticket_id, ticket_no, accepted_at, NULL::timestamptz FROM complaint_facts AS f
    WHERE f.customer_key = wanted.customer_key AND f.accepted_at >= wanted.at - $6::interval
    AND f.accepted_at < wanted.at AND f.counts ORDER BY f.accepted_at DESC LIMIT $7
) AS found
UNION ALL
SELECT 'follower', wanted.customer_key, found.* FROM known
JOIN unnest($4::text[], $5::timestamptz[]) AS wanted(customer_key, at) USING (customer_key),
LATERAL (
    SELECT NULL::text, ticket_id, NULL::text, NULL::timestamptz, NULL::timestamptz FROM complaint_facts AS f
    WHERE f.customer_key = wanted.customer_key AND f.accepted_at > wanted.at
    AND f.accepted_at <= wanted.at + $6::interval AND f.counts AND NOT f.ended
    AND NOT EXISTS (SELECT 1 FROM escalations AS e WHERE e.ticket_id = f.ticket_id AND e.kind = 'appeal')
    ORDER BY f.accepted_at LIMIT $7
) AS found
"""

_ACCEPTED_AFTER = """
SELECT later.ticket_id FROM unnest($1::uuid[], $2::timestamptz[]) AS closed(id, at)
JOIN complaint_facts AS f ON f.ticket_id = closed.id
JOIN complaint_facts AS later ON later.customer_key = f.customer_key AND later.accepted_at >= closed.at
WHERE later.problem_key = f.problem_key AND later.ticket_id <> f.ticket_id AND NOT later.ended
"""


@dataclass(slots=True)
class History:
    """`archived` by customer and problem, `accepted` by customer, each with its problem; `followers` are open tickets
    that are no appeal yet, and came before the complaint that makes them one."""

    archived: dict[tuple[str, str], list[Earlier]] = field(default_factory=dict)
    accepted: dict[str, list[tuple[str | None, Earlier]]] = field(default_factory=dict)
    followers: set[UUID] = field(default_factory=set)


async def history_of(
    connection: Connection,
    pairs: Iterable[tuple[str, str]],
    since: datetime,
    complaints: Sequence[tuple[str, datetime]],
    within: timedelta,
) -> History:
    """For each (customer, problem): the tickets archived since then. For each (customer, moment): the complaints
    accepted within that time before, and the open ones within that time after. Of each the nearest 20."""
    ordered = sorted(set(pairs))
    rows = await connection.fetch(
        _HISTORY,
        [customer for customer, _ in ordered],
        [problem for _, problem in ordered],
        since,
        [customer for customer, _ in complaints],
        [at for _, at in complaints],
        within,
        LATEST,
    )
    history = History()
    for what, customer, problem, ticket_id, ticket_no, accepted_at, archived_at in rows:
        if what == "follower":
            history.followers.add(ticket_id)
            continue
        earlier = Earlier(TicketRef(ticket_id=ticket_id, ticket_no=ticket_no), accepted_at, archived_at)
        if what == "archived":
            history.archived.setdefault((customer, problem), []).append(earlier)
        else:
            history.accepted.setdefault(customer, []).append((problem, earlier))
    return history


async def accepted_after(connection: Connection, closed: Mapping[UUID, datetime]) -> set[UUID]:
    """Open tickets of the same customer and problem accepted after the closing of these: repeats whose closing event
    came later than they did."""
    rows = await connection.fetch(_ACCEPTED_AFTER, list(closed), list(closed.values()))
    return {row[0] for row in rows}

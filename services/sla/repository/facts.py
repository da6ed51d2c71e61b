"""The facts of complaints: locking them, and finding what belongs to the same customer."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, select, text, update

from services.sla.domain.detection import Earlier
from services.sla.domain.records import Facts
from services.sla.tables import complaint_facts
from shared.contracts.sla import Problem
from shared.contracts.ticket import ClassMark, TicketRef, TicketSnapshot
from shared.database.columns import Json
from shared.database.connection import Connection

FactsRow = Row[Any]


def to_facts(row: FactsRow) -> Facts:
    return Facts(
        ticket_id=row.ticket_id,
        version=row.version,
        ticket=TicketSnapshot.model_validate(row.snapshot),
        problem=Problem(key=row.problem_key, parts=row.problem_parts) if row.problem_key is not None else None,
        vip=row.vip,
        counts=row.counts,
        branch=row.branch,
        archived_at=row.archived_at,
        ended=row.ended,
        incident_id=row.incident_id,
        seen={name: datetime.fromisoformat(at) for name, at in row.seen.items()},
        cycles=row.cycles,
        added=tuple(ClassMark.model_validate(mark) for mark in row.added),
    )


async def find(connection: Connection, reference: UUID | str) -> FactsRow | None:
    """By id or by number."""
    column = complaint_facts.c.ticket_id if isinstance(reference, UUID) else complaint_facts.c.ticket_no
    return (await connection.execute(select(complaint_facts).where(column == reference))).first()


async def lock_many(
    connection: Connection, ticket_ids: Iterable[UUID], *, skip_locked: bool = False
) -> dict[UUID, Facts]:
    """In id order, so that two writers never wait for each other in a circle. `skip_locked` leaves out what is busy."""
    rows = await connection.execute(
        select(complaint_facts)
        .where(complaint_facts.c.ticket_id == text("ANY(:ids)"))
        .order_by(complaint_facts.c.ticket_id)
        .with_for_update(skip_locked=skip_locked),
        {"ids": list(ticket_ids)},
    )
    return {row.ticket_id: to_facts(row) for row in rows}


async def hold(connection: Connection, problems: Iterable[str], customers: Iterable[str] = ()) -> None:
    """Hold these problems and customers to the end of the transaction: no two instances open the same incident, or
    overlook what the other just writes about a customer. All in one order of their hashes, so that nobody waits for
    another in a circle."""
    await connection.execute(
        text(
            "SELECT pg_advisory_xact_lock(hash) FROM (SELECT DISTINCT hash FROM"
            " (SELECT hashtextextended(key, 7203) AS hash FROM unnest(CAST(:problems AS text[])) AS key"
            " UNION ALL SELECT hashtextextended(key, 7204) FROM unnest(CAST(:customers AS text[])) AS key) AS named"
            " ORDER BY hash) AS wanted"
        ),
        {"problems": list(problems), "customers": list(customers)},
    )


async def known_of(connection: Connection, ticket_ids: Iterable[UUID]) -> dict[UUID, tuple[str, str | None]]:
    """The customer and the stored problem of each of these tickets, read without a lock."""
    rows = await connection.execute(
        select(complaint_facts.c.ticket_id, complaint_facts.c.customer_key, complaint_facts.c.problem_key).where(
            complaint_facts.c.ticket_id == text("ANY(:ids)")
        ),
        {"ids": list(ticket_ids)},
    )
    return {row.ticket_id: (row.customer_key, row.problem_key) for row in rows}


async def archived_of(
    connection: Connection, pairs: Iterable[tuple[str, str]], since: datetime
) -> dict[tuple[str, str], list[Earlier]]:
    """For each (customer, problem): the tickets archived since then, the latest 20."""
    wanted = sorted(set(pairs))
    rows = await connection.execute(
        text(
            "SELECT wanted.customer_key, wanted.problem_key, found.* FROM"
            " unnest(CAST(:customers AS text[]), CAST(:problems AS text[])) AS wanted(customer_key, problem_key),"
            " LATERAL (SELECT ticket_id, ticket_no, accepted_at, archived_at FROM complaint_facts AS f"
            " WHERE f.customer_key = wanted.customer_key AND f.problem_key = wanted.problem_key"
            " AND f.archived_at IS NOT NULL AND f.archived_at >= :since ORDER BY f.archived_at DESC LIMIT 20) AS found"
        ),
        {"customers": [pair[0] for pair in wanted], "problems": [pair[1] for pair in wanted], "since": since},
    )
    found: dict[tuple[str, str], list[Earlier]] = {}
    for row in rows:
        earlier = Earlier(TicketRef(ticket_id=row.ticket_id, ticket_no=row.ticket_no), row.accepted_at, row.archived_at)
        found.setdefault((row.customer_key, row.problem_key), []).append(earlier)
    return found


async def accepted_of(
    connection: Connection, customers: Sequence[tuple[str, datetime]], within: timedelta
) -> dict[str, list[tuple[str | None, Earlier]]]:
    """For each (customer, moment): complaints of the customer accepted within that time before, the latest 20, each
    with its problem."""
    rows = await connection.execute(
        text(
            "SELECT wanted.customer_key, found.* FROM"
            " unnest(CAST(:customers AS text[]), CAST(:moments AS timestamptz[])) AS wanted(customer_key, at),"
            " LATERAL (SELECT ticket_id, ticket_no, accepted_at, problem_key FROM complaint_facts AS f"
            " WHERE f.customer_key = wanted.customer_key AND f.accepted_at >= wanted.at - CAST(:within AS interval)"
            " AND f.accepted_at < wanted.at AND f.counts ORDER BY f.accepted_at DESC LIMIT 20) AS found"
        ),
        {
            "customers": [customer for customer, _ in customers],
            "moments": [at for _, at in customers],
            "within": within,
        },
    )
    found: dict[str, list[tuple[str | None, Earlier]]] = {}
    for row in rows:
        earlier = Earlier(TicketRef(ticket_id=row.ticket_id, ticket_no=row.ticket_no), row.accepted_at)
        found.setdefault(row.customer_key, []).append((row.problem_key, earlier))
    return found


async def accepted_after(connection: Connection, closed: Mapping[UUID, datetime]) -> set[UUID]:
    """Open tickets of the same customer and problem accepted after the closing of these: repeats whose closing event
    came later than they did."""
    rows = await connection.execute(
        text(
            "SELECT later.ticket_id"
            " FROM unnest(CAST(:ids AS uuid[]), CAST(:moments AS timestamptz[])) AS closed(id, at)"
            " JOIN complaint_facts AS f ON f.ticket_id = closed.id"
            " JOIN complaint_facts AS later ON later.customer_key = f.customer_key AND later.accepted_at >= closed.at"
            " WHERE later.problem_key = f.problem_key AND later.ticket_id <> f.ticket_id AND NOT later.ended"
        ),
        {"ids": list(closed), "moments": list(closed.values())},
    )
    return {row.ticket_id for row in rows}


async def complaining_after(
    connection: Connection, customers: Sequence[tuple[str, datetime]], within: timedelta
) -> set[UUID]:
    """For each (customer, moment): open tickets accepted within that time after it that are no appeal yet. They came
    before the complaint that makes them one; at most 20."""
    rows = await connection.execute(
        text(
            "SELECT found.ticket_id FROM"
            " unnest(CAST(:customers AS text[]), CAST(:moments AS timestamptz[])) AS wanted(customer_key, at),"
            " LATERAL (SELECT ticket_id FROM complaint_facts AS f"
            " WHERE f.customer_key = wanted.customer_key AND f.accepted_at > wanted.at"
            " AND f.accepted_at <= wanted.at + CAST(:within AS interval) AND f.counts AND NOT f.ended"
            " AND NOT EXISTS (SELECT 1 FROM escalations AS e WHERE e.ticket_id = f.ticket_id AND e.kind = 'appeal')"
            " ORDER BY f.accepted_at LIMIT 20) AS found"
        ),
        {
            "customers": [customer for customer, _ in customers],
            "moments": [at for _, at in customers],
            "within": within,
        },
    )
    return {row.ticket_id for row in rows}


_UPDATE = (
    update(complaint_facts)
    .where(complaint_facts.c.ticket_id == bindparam("id"))
    .values(
        {name: bindparam(f"new_{name}") for name in complaint_facts.c.keys() if name not in ("ticket_id", "ticket_no")}
    )
)

_UPDATE_VERSION = text(
    "UPDATE complaint_facts AS f SET version = new.version"
    " FROM unnest(CAST(:ids AS uuid[]), CAST(:versions AS int[])) AS new(ticket_id, version)"
    " WHERE f.ticket_id = new.ticket_id"
)


async def save(connection: Connection, touched: Sequence[Facts]) -> None:
    """Insert what is new, update what changed; where only events were counted, the version alone."""
    fresh = [
        _values(facts) | {"ticket_id": facts.ticket_id, "ticket_no": facts.ticket_no}
        for facts in touched
        if facts.is_new
    ]
    if fresh:
        await connection.execute(complaint_facts.insert(), fresh)
    old = [
        {"id": facts.ticket_id} | {f"new_{name}": value for name, value in _values(facts).items()}
        for facts in touched
        if facts.changed and not facts.is_new
    ]
    if old:
        await connection.execute(_UPDATE, old)
    counted = [facts for facts in touched if not facts.changed and not facts.is_new]
    if counted:
        await connection.execute(
            _UPDATE_VERSION,
            {"ids": [facts.ticket_id for facts in counted], "versions": [facts.version for facts in counted]},
        )


def _values(facts: Facts) -> dict[str, Any]:
    return {
        "version": facts.version,
        "snapshot": Json.of(facts.ticket),
        "customer_key": facts.ticket.customer.key,
        "problem_key": facts.problem.key if facts.problem is not None else None,
        "problem_parts": facts.problem.parts if facts.problem is not None else {},
        "vip": facts.vip,
        "counts": facts.counts,
        "branch": facts.branch,
        "accepted_at": facts.ticket.accepted_at,
        "archived_at": facts.archived_at,
        "ended": facts.ended,
        "incident_id": facts.incident_id,
        "seen": {name: at.isoformat() for name, at in facts.seen.items()},
        "cycles": facts.cycles,
        "added": [mark.model_dump() for mark in facts.added],
    }

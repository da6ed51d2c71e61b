"""The facts of complaints: locking and saving them. Their columns of a type are read and written in one order."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row

from services.sla.domain.records import Facts
from services.sla.tables import complaint_facts
from shared.contracts.sla import Problem
from shared.contracts.ticket import ClassMark
from shared.database import arrays
from shared.database.columns import Json
from shared.database.connection import Connection, Referenced

FactsRow = Row[Any]

# In the order that `_to_facts` takes.
LOOK = """
SELECT ticket_id, version, ticket_no, customer_key, snapshot::text, problem_key, problem_parts, vip, counts, branch,
    archived_at, ended, incident_id, seen, cycles, added
FROM complaint_facts WHERE ticket_id = ANY($1::uuid[])
"""
# In id order, so that two writers never wait for each other in a circle.
LOCK = f"{LOOK} ORDER BY ticket_id FOR UPDATE"
LOCK_FREE = f"{LOCK} SKIP LOCKED"

_HOLD = """
SELECT pg_advisory_xact_lock(hash) FROM (
    SELECT DISTINCT hash FROM (
        SELECT hashtextextended(key, 7203) AS hash FROM unnest($1::text[]) AS key
        UNION ALL SELECT hashtextextended(key, 7204) FROM unnest($2::text[]) AS key
    ) AS named ORDER BY hash
) AS wanted
"""

_KNOWN = "SELECT ticket_id, customer_key, problem_key FROM complaint_facts WHERE ticket_id = ANY($1::uuid[])"

_HOT: arrays.Columns = {
    "ticket_id": "uuid",
    "version": "int",
    "branch": "text",
    "archived_at": "timestamptz",
    "ended": "boolean",
    "incident_id": "uuid",
    "seen": "jsonb",
    "cycles": "jsonb",
    "added": "jsonb",
}
"""What events change. The rest goes with the ticket's snapshot, and is written only with a new one."""

_ALL: arrays.Columns = {
    **_HOT,
    "snapshot": "jsonb",
    "customer_key": "text",
    "problem_key": "text",
    "problem_parts": "jsonb",
    "vip": "boolean",
    "counts": "boolean",
    "accepted_at": "timestamptz",
}
_NEW = (*_ALL, "ticket_no")
_UPDATE_ALL = arrays.update("complaint_facts", _ALL)
_UPDATE_HOT = arrays.update("complaint_facts", _HOT)
_UPDATE_VERSION = arrays.update("complaint_facts", {"ticket_id": "uuid", "version": "int"})


_REFERENCED = Referenced(complaint_facts)


async def find(connection: Connection, reference: UUID | str) -> FactsRow | None:
    """By id or by number."""
    return await _REFERENCED.first(connection, reference)


async def lock_many(
    connection: Connection, ticket_ids: Iterable[UUID], *, skip_locked: bool = False
) -> dict[UUID, Facts]:
    """`skip_locked` leaves out what is busy."""
    rows = await connection.fetch(LOCK_FREE if skip_locked else LOCK, list(ticket_ids))
    return {row[0]: _to_facts(*row) for row in rows}


def _to_facts(
    ticket_id: UUID,
    version: int,
    ticket_no: str,
    customer_key: str,
    snapshot: str,
    problem_key: str | None,
    problem_parts: dict[str, str | None],
    vip: bool,
    counts: bool,
    branch: str | None,
    archived_at: datetime | None,
    ended: bool,
    incident_id: UUID | None,
    seen: dict[str, str],
    cycles: dict[str, int],
    added: list[dict[str, str]],
) -> Facts:
    return Facts(
        ticket_id=ticket_id,
        version=version,
        ticket_no=ticket_no,
        customer_key=customer_key,
        snapshot=snapshot,
        problem=Problem(key=problem_key, parts=problem_parts) if problem_key is not None else None,
        vip=vip,
        counts=counts,
        branch=branch,
        archived_at=archived_at,
        ended=ended,
        incident_id=incident_id,
        seen={name: datetime.fromisoformat(at) for name, at in seen.items()},
        cycles=cycles,
        added=tuple(ClassMark.model_validate(mark) for mark in added),
    )


async def hold(connection: Connection, problems: Iterable[str], customers: Iterable[str] = ()) -> None:
    """Hold these problems and customers to the end of the transaction: no two instances open the same incident, or
    overlook what the other just writes about a customer. All in one order of their hashes, so that nobody waits for
    another in a circle."""
    await connection.run(_HOLD, list(problems), list(customers))


async def known_of(connection: Connection, ticket_ids: Iterable[UUID]) -> dict[UUID, tuple[str, str | None]]:
    """The customer and the stored problem of each of these tickets, read without a lock."""
    rows = await connection.fetch(_KNOWN, list(ticket_ids))
    return {ticket_id: (customer_key, problem_key) for ticket_id, customer_key, problem_key in rows}


async def save(connection: Connection, touched: Sequence[Facts]) -> None:
    """Insert what is new, update what changed; where only events were counted, the version alone."""
    fresh = [(*_hot(facts), *_restated(facts), facts.ticket_no) for facts in touched if facts.is_new]
    if fresh:
        await connection.copy("complaint_facts", _NEW, fresh)
    old = [facts for facts in touched if not facts.is_new]
    restated = [(*_hot(facts), *_restated(facts)) for facts in old if facts.changed and facts.restated]
    if restated:
        await connection.run(_UPDATE_ALL, *arrays.by_column(restated))
    moved = [_hot(facts) for facts in old if facts.changed and not facts.restated]
    if moved:
        await connection.run(_UPDATE_HOT, *arrays.by_column(moved))
    counted = [(facts.ticket_id, facts.version) for facts in old if not facts.changed]
    if counted:
        await connection.run(_UPDATE_VERSION, *arrays.by_column(counted))


def _hot(facts: Facts) -> tuple[Any, ...]:
    """In the order of `_HOT`."""
    return (
        facts.ticket_id,
        facts.version,
        facts.branch,
        facts.archived_at,
        facts.ended,
        facts.incident_id,
        _json(facts.seen),
        _json(facts.cycles),
        _json([mark.model_dump() for mark in facts.added]),
    )


def _restated(facts: Facts) -> tuple[Any, ...]:
    """In the order of what `_ALL` has besides."""
    ticket = facts.ticket
    problem = facts.problem
    return (
        Json.of(ticket),
        ticket.customer.key,
        problem.key if problem is not None else None,
        _json(problem.parts if problem is not None else {}),
        facts.vip,
        facts.counts,
        ticket.accepted_at,
    )


def _json(value: Any) -> Json:
    return Json(orjson.dumps(value).decode())

"""The only SQL of intake."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg
from sqlalchemy import and_, bindparam, func, select, text, update

from services.intake.domain import TERMINAL
from services.intake.tables import SEALED_WITH, ticket_timeline, tickets
from shared.contracts.intake import TicketRegistered
from shared.database import arrays
from shared.database.connection import Connection, Referenced
from shared.database.engine import first_events
from shared.messaging import inbox

TicketRow: TypeAlias = Any

_SEALED_WITH = text(f"personal IS NOT NULL AND {SEALED_WITH} = ANY(CAST(:prefixes AS bytea[]))")
# One side of it at a time, in order: an index finds these. For both sides at once, or for "other than", PostgreSQL
# reads every ticket: 2.2 s of a million, every minute.
_SEALED_UNKNOWN = [
    text(
        f"personal IS NOT NULL AND {SEALED_WITH} {side} CAST(:prefix AS bytea)"
        f" AND {SEALED_WITH} <> ALL(CAST(:prefixes AS bytea[]))"
    )
    for side in ("<", ">")
]
COUNTED = 100_000
_ENDED = [str(status) for status in TERMINAL]


OpenTicket: TypeAlias = tuple[str, str, str, str]
"""Customer key, category, id, number."""


class Opening(NamedTuple):
    """What a registration begins with: the database's time (real, UTC), running numbers, of the customers' open tickets
    the oldest of each category, and whether some key or some external id was seen before."""

    now: datetime
    numbers: list[int]
    open_tickets: Sequence[OpenTicket]
    keys_known: bool
    externals_known: bool


# Asked outside any transaction: what is stored meanwhile, the unique keys find.
_OPENING = """
SELECT clock_timestamp(), ARRAY(SELECT nextval('ticket_numbers') FROM generate_series(1, $1::int)),
    (SELECT jsonb_agg(jsonb_build_array(customer_key, category, ticket_id, ticket_no)) FROM (
        SELECT DISTINCT ON (customer_key, category) customer_key, category, ticket_id, ticket_no
        FROM tickets WHERE customer_key = ANY($2::text[]) AND status <> ALL($3::text[])
        ORDER BY customer_key, category, ticket_id) AS first),
    EXISTS (SELECT FROM idempotency_keys WHERE client = ANY($4::text[]) AND key = ANY($5::text[])),
    EXISTS (SELECT FROM tickets WHERE channel = ANY($6::text[]) AND external_id = ANY($7::text[]))
"""


async def opening(
    connection: Connection,
    count: int,
    customer_keys: Collection[str],
    keys: Collection[tuple[str, str]],
    externals: Collection[tuple[str, str]],
) -> Opening:
    """As many fresh running numbers as asked for, and what else a batch of registrations must know first."""
    ((now, numbers, open_tickets, *known),) = await connection.fetch(
        _OPENING, count, list(customer_keys), _ENDED, *arrays.apart(keys), *arrays.apart(externals)
    )
    return Opening(now, numbers, open_tickets or (), *known)


_BY_EXTERNAL_IDS = """
SELECT channel, external_id, ticket_id, ticket_no, request_hash FROM tickets
WHERE channel = ANY($1) AND external_id = ANY($2)
"""


async def by_external_ids(
    connection: Connection, pairs: Collection[tuple[str, str]]
) -> dict[tuple[str, str], asyncpg.Record]:
    """(channel, external id) → number, id and request hash of its ticket."""
    rows = await connection.fetch(_BY_EXTERNAL_IDS, *arrays.apart(pairs))
    found = {(row["channel"], row["external_id"]): row for row in rows}
    return {pair: found[pair] for pair in pairs if pair in found}


class NewTicket(NamedTuple):
    """A ticket as it is registered, the first entry of its timeline, its event, and the answer to keep under its key.

    `snapshot` and `details` are JSON, `rules` a `text_array`. Nothing but text and bytes, empty for what there is not:
    of any other value in an array asyncpg asks whether it is an array itself, which cost 1 µs each.
    """

    ticket_id: str
    ticket_no: str
    channel: str
    external_id: str
    request_hash: bytes
    customer_key: str
    category: str
    urgency_rank: str
    snapshot: str
    personal: bytes
    event_id: str
    actor: str
    rules: str
    details: str
    payload: bytes
    traceparent: str
    client: str
    key: str
    answer: bytes


# A transaction by itself: all of it is stored, or, when somebody stored a key or an external id first, nothing. Keys
# and external ids in one order, so that two processes with the same ones never wait for each other in a circle. An
# array a column: row by row a batch of 24 cost intake 50 µs more a ticket.
_STORE = f"""
WITH given AS MATERIALIZED (
    SELECT * FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::bytea[], $13::uuid[], $14::text[], $15::text[], $16::text[], $17::bytea[],
        $18::text[], $19::text[], $20::text[], $21::bytea[])
    AS given({", ".join(NewTicket._fields)})
), kept AS (
    INSERT INTO idempotency_keys (client, key, request_hash, status, answer)
    SELECT client, key, request_hash, $2, answer FROM given WHERE key <> '' ORDER BY client, key
), stored AS (
    INSERT INTO tickets (ticket_id, ticket_no, channel, external_id, request_hash, status, customer_key, category,
        urgency_rank, snapshot, personal, version, accepted_at, updated_at)
    SELECT ticket_id, ticket_no, channel, nullif(external_id, ''), request_hash, 'registered', customer_key, category,
        urgency_rank::smallint, snapshot::jsonb, personal, 1, $1, $1
    FROM given ORDER BY channel, external_id
), told AS (
    INSERT INTO ticket_timeline (ticket_id, event_id, at, service, type, actor, rules, details)
    SELECT ticket_id, event_id, $1, 'intake', '{TicketRegistered.TYPE}', actor, rules::text[], details::jsonb
    FROM given
), {first_events(TicketRegistered)}
"""  # noqa: S608


async def store_registered(connection: Connection, rows: Sequence[NewTicket], now: datetime, status: int) -> None:
    """Store and commit. Raises `UniqueViolationError` when one of them is known meanwhile, and then stores nothing."""
    await connection.run(_STORE, now, status, *arrays.by_column(rows))


async def add_timeline(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(ticket_timeline.insert(), [dict(row) for row in rows])


_REFERENCED = Referenced(tickets)


async def find(connection: Connection, reference: UUID | str) -> TicketRow | None:
    """By id or by number."""
    return await _REFERENCED.first(connection, reference)


async def lock(connection: Connection, ticket_id: UUID) -> TicketRow:
    return (await connection.execute(select(tickets).where(tickets.c.ticket_id == ticket_id).with_for_update())).one()


_PICTURES = """
SELECT ticket_id, status, review_status, order_status, branch, outcome, urgency_rank, closed_at
FROM tickets WHERE ticket_id = ANY($1::uuid[]) ORDER BY ticket_id FOR UPDATE
"""


async def lock_pictures(connection: Connection, ticket_ids: Iterable[UUID]) -> list[asyncpg.Record]:
    """What events change of these tickets, in id order, so that two writers never wait for each other in a circle."""
    return await connection.fetch(_PICTURES, list(ticket_ids))


async def save(connection: Connection, ticket_id: UUID, **values: Any) -> None:
    await connection.execute(update(tickets).where(tickets.c.ticket_id == ticket_id).values(**values))


_SAVE_PICTURES = arrays.update(
    "tickets",
    {
        "ticket_id": "uuid",
        "status": "text",
        "review_status": "text",
        "order_status": "text",
        "branch": "text",
        "outcome": "text",
        "urgency_rank": "smallint",
        "updated_at": "timestamptz",
        "closed_at": "timestamptz",
    },
)
_SAVE_SNAPSHOTS = arrays.update("tickets", {"ticket_id": "uuid", "snapshot": "jsonb", "category": "text"})
_ADD_ENTRIES = arrays.insert(
    "ticket_timeline",
    {
        "ticket_id": "uuid",
        "event_id": "uuid",
        "at": "timestamptz",
        "service": "text",
        "type": "text",
        "actor": "text",
        "rules": "text[]",
        "details": "jsonb",
    },
)


async def save_pictures(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows in the order of `_SAVE_PICTURES`."""
    await connection.run(_SAVE_PICTURES, *arrays.by_column(rows))


async def save_snapshots(connection: Connection, rows: Sequence[tuple[UUID, str, str]]) -> None:
    """(ticket, snapshot as JSON, category)."""
    await connection.run(_SAVE_SNAPSHOTS, *arrays.by_column(rows))


async def add_entries(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows of the timeline, in the order of `_ADD_ENTRIES`."""
    await connection.run(_ADD_ENTRIES, *arrays.by_column(rows))


async def page(connection: Connection, filters: Mapping[str, Any], before: UUID | None, limit: int) -> list[TicketRow]:
    """Newest first, below the cursor `before`."""
    conditions = [tickets.c[name] == value for name, value in filters.items() if name in tickets.c]
    if "status" in filters and filters["status"] not in TERMINAL:
        # Said twice, so that the index of open tickets serves it: one of ten million may have that status.
        conditions.append(tickets.c.closed_at.is_(None))
    if (since := filters.get("accepted_since")) is not None:
        conditions.append(tickets.c.accepted_at >= since)
    if (until := filters.get("accepted_until")) is not None:
        conditions.append(tickets.c.accepted_at < until)
    if before is not None:
        conditions.append(tickets.c.ticket_id < before)
    query = select(tickets).where(and_(True, *conditions)).order_by(tickets.c.ticket_id.desc()).limit(limit)
    return list((await connection.execute(query)).all())


_TIMELINE = (
    select(ticket_timeline)
    .where(ticket_timeline.c.ticket_id == bindparam("ticket"))
    .order_by(ticket_timeline.c.at, ticket_timeline.c.event_id)
)


async def timeline(connection: Connection, ticket_id: UUID) -> list[TicketRow]:
    return (await connection.execute(_TIMELINE, {"ticket": ticket_id})).all()


# ---- the end of personal data --------------------------------------------------------------------------------------

_TO_ERASE = (
    tickets.c.ticket_id,
    tickets.c.ticket_no,
    tickets.c.status,
    tickets.c.external_id,
    tickets.c.version,
    tickets.c.snapshot,
    tickets.c.personal,
)


async def lock_of_customer(connection: Connection, customer_key: str) -> list[TicketRow]:
    """Every ticket of a customer, held against the consumer and against other writers, in id order."""
    wanted = select(tickets.c.ticket_id).where(tickets.c.customer_key == customer_key)
    return await _lock_to_erase(connection, wanted)


async def lock_expired(connection: Connection, before: datetime, count: int) -> list[TicketRow]:
    """Some tickets with personal data that ended before then, the oldest first."""
    wanted = (
        select(tickets.c.ticket_id)
        .where(tickets.c.personal.is_not(None), tickets.c.closed_at < before, tickets.c.status.in_(_ENDED))
        .order_by(tickets.c.closed_at)
        .limit(count)
    )
    return await _lock_to_erase(connection, wanted, tickets.c.closed_at < before, tickets.c.personal.is_not(None))


async def _lock_to_erase(connection: Connection, wanted: Any, *still: Any) -> list[TicketRow]:
    ids = list((await connection.execute(wanted)).scalars())
    if not ids:
        return []
    # As the consumer does, before the rows: what it reads of a ticket must not pass an erasure.
    await inbox.hold(connection, ids)
    query = select(*_TO_ERASE).where(tickets.c.ticket_id.in_(ids), *still).order_by(tickets.c.ticket_id)
    return list((await connection.execute(query.with_for_update())).all())


async def save_erased(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(
        update(tickets)
        .where(tickets.c.ticket_id == bindparam("id"))
        .values(
            personal=None,
            snapshot=bindparam("new_snapshot"),
            external_id=bindparam("new_external_id"),
            version=bindparam("new_version"),
            updated_at=bindparam("new_updated_at"),
        ),
        list(rows),
    )


async def timeline_texts(connection: Connection, ticket_ids: Sequence[UUID]) -> list[TicketRow]:
    columns = (
        ticket_timeline.c.ticket_id,
        ticket_timeline.c.event_id,
        ticket_timeline.c.type,
        ticket_timeline.c.details,
    )
    rows = await connection.execute(select(*columns).where(ticket_timeline.c.ticket_id.in_(ticket_ids)))
    return list(rows.all())


async def save_details(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        await connection.execute(
            update(ticket_timeline)
            .where(ticket_timeline.c.ticket_id == bindparam("ticket"), ticket_timeline.c.event_id == bindparam("event"))
            .values(details=bindparam("new_details")),
            [dict(row) for row in rows],
        )


async def lock_sealed_with(
    connection: Connection, prefixes: Sequence[bytes], besides: Sequence[UUID], count: int
) -> list[TicketRow]:
    """Some tickets whose personal data begins with one of these; those that somebody holds are left out."""
    query = (
        select(tickets.c.ticket_id, tickets.c.personal)
        .where(_SEALED_WITH, tickets.c.ticket_id.not_in(besides))
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    return list((await connection.execute(query, {"prefixes": prefixes})).all())


async def save_personal(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(
        update(tickets).where(tickets.c.ticket_id == bindparam("id")).values(personal=bindparam("new_personal")),
        list(rows),
    )


async def sealed_with_others(connection: Connection, prefix: bytes, prefixes: Sequence[bytes]) -> tuple[int, int]:
    """How many tickets' personal data begins with one of `prefixes`, and how many with neither them nor `prefix`.

    Each is counted up to one more than `COUNTED`.
    """
    counts = []
    for condition in (_SEALED_WITH, *_SEALED_UNKNOWN):
        some = select(tickets.c.ticket_id).where(condition).order_by(SEALED_WITH).limit(COUNTED + 1).subquery()
        found = await connection.execute(
            select(func.count()).select_from(some), {"prefix": prefix, "prefixes": list(prefixes)}
        )
        counts.append(int(found.scalar_one()))
    return counts[0], min(counts[1] + counts[2], COUNTED + 1)

"""The only SQL of intake."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import and_, bindparam, func, select, text, tuple_, update

from services.intake.domain import TERMINAL
from services.intake.tables import SEALED_WITH, ticket_timeline, tickets
from shared.database.connection import Connection
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


async def numbers_and_time(connection: Connection, count: int) -> tuple[list[int], datetime]:
    """As many fresh running numbers as asked for, and the database's time (real, UTC)."""
    rows = (
        await connection.execute(
            text("SELECT nextval('ticket_numbers'), clock_timestamp() FROM generate_series(1, :count)"),
            {"count": count},
        )
    ).all()
    return [row[0] for row in rows], rows[0][1]


async def claim_keys(
    connection: Connection, keys: Sequence[tuple[str, str, bytes, bytes]], status: int
) -> set[tuple[str, str]]:
    """Store (client, key, hash, answer) where the key is new; the (client, key) pairs that were."""
    rows = await connection.execute(
        text(
            "INSERT INTO idempotency_keys (client, key, request_hash, status, answer)"
            " SELECT client, key, hash, :status, answer FROM unnest(CAST(:clients AS text[]), CAST(:keys AS text[]),"
            " CAST(:hashes AS bytea[]), CAST(:answers AS bytea[])) AS given(client, key, hash, answer)"
            " ON CONFLICT DO NOTHING RETURNING client, key"
        ),
        {
            "status": status,
            "clients": [key[0] for key in keys],
            "keys": [key[1] for key in keys],
            "hashes": [key[2] for key in keys],
            "answers": [key[3] for key in keys],
        },
    )
    return {(row.client, row.key) for row in rows}


async def kept_answers(
    connection: Connection, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    """(client, key) → (request hash, answer)."""
    rows = await connection.execute(
        text(
            "SELECT client, key, request_hash, answer FROM idempotency_keys"
            " JOIN unnest(CAST(:clients AS text[]), CAST(:keys AS text[])) AS wanted(client, key) USING (client, key)"
        ),
        {"clients": [key[0] for key in keys], "keys": [key[1] for key in keys]},
    )
    return {(row.client, row.key): (bytes(row.request_hash), bytes(row.answer)) for row in rows}


async def by_external_ids(connection: Connection, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], TicketRow]:
    rows = await connection.execute(
        select(
            tickets.c.channel, tickets.c.external_id, tickets.c.ticket_id, tickets.c.ticket_no, tickets.c.request_hash
        ).where(tuple_(tickets.c.channel, tickets.c.external_id).in_(pairs))
    )
    return {(row.channel, row.external_id): row for row in rows}


_OPEN_OF_CUSTOMERS = (
    select(tickets.c.customer_key, tickets.c.category, tickets.c.ticket_id, tickets.c.ticket_no)
    .where(tickets.c.customer_key == text("ANY(:keys)"), tickets.c.status.not_in(_ENDED))
    .order_by(tickets.c.ticket_id)
)


async def open_of_customers(connection: Connection, customer_keys: Iterable[str]) -> list[TicketRow]:
    """Open tickets of these customers, oldest first."""
    return list((await connection.execute(_OPEN_OF_CUSTOMERS, {"keys": list(set(customer_keys))})).all())


async def insert_tickets(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(tickets.insert(), [dict(row) for row in rows])


async def add_timeline(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(ticket_timeline.insert(), [dict(row) for row in rows])


async def find(connection: Connection, reference: UUID | str) -> TicketRow | None:
    """By id or by number."""
    column = tickets.c.ticket_id if isinstance(reference, UUID) else tickets.c.ticket_no
    return (await connection.execute(select(tickets).where(column == reference))).first()


async def lock(connection: Connection, ticket_id: UUID) -> TicketRow:
    return (await connection.execute(select(tickets).where(tickets.c.ticket_id == ticket_id).with_for_update())).one()


async def lock_many(connection: Connection, ticket_ids: Iterable[UUID]) -> dict[UUID, TicketRow]:
    """In id order, so that two writers never wait for each other in a circle."""
    rows = await connection.execute(
        select(
            tickets.c.ticket_id,
            tickets.c.status,
            tickets.c.review_status,
            tickets.c.order_status,
            tickets.c.branch,
            tickets.c.outcome,
            tickets.c.category,
            tickets.c.urgency_rank,
            tickets.c.closed_at,
        )
        .where(tickets.c.ticket_id == text("ANY(:ids)"))
        .order_by(tickets.c.ticket_id)
        .with_for_update(),
        {"ids": list(ticket_ids)},
    )
    return {row.ticket_id: row for row in rows}


async def save(connection: Connection, ticket_id: UUID, **values: Any) -> None:
    await connection.execute(update(tickets).where(tickets.c.ticket_id == ticket_id).values(**values))


_SAVE_PICTURE = (
    update(tickets)
    .where(tickets.c.ticket_id == bindparam("id"))
    .values(
        status=bindparam("new_status"),
        review_status=bindparam("new_review_status"),
        order_status=bindparam("new_order_status"),
        branch=bindparam("new_branch"),
        outcome=bindparam("new_outcome"),
        urgency_rank=bindparam("new_urgency_rank"),
        updated_at=bindparam("new_updated_at"),
        closed_at=bindparam("new_closed_at"),
    )
)


async def save_pictures(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(_SAVE_PICTURE, [dict(row) for row in rows])


async def save_snapshots(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(
        update(tickets)
        .where(tickets.c.ticket_id == bindparam("id"))
        .values(snapshot=bindparam("new_snapshot"), category=bindparam("new_category")),
        [dict(row) for row in rows],
    )


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


async def timeline(connection: Connection, ticket_id: UUID) -> list[TicketRow]:
    query = (
        select(ticket_timeline)
        .where(ticket_timeline.c.ticket_id == ticket_id)
        .order_by(ticket_timeline.c.at, ticket_timeline.c.event_id)
    )
    return list((await connection.execute(query)).all())


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

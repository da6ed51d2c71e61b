"""The only SQL of review."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import orjson
from sqlalchemy import func, literal_column, select, text, update

from services.review.domain import OPINION, ApprovalStatus, Review, ReviewStatus
from services.review.tables import approvals, reviews
from shared.contracts.review import Finding
from shared.contracts.ticket import TicketSnapshot
from shared.database import arrays
from shared.database.columns import Json
from shared.database.connection import Connection, Referenced

ReviewRow: TypeAlias = Any


def to_review(row: ReviewRow) -> Review:
    ticket = TicketSnapshot.model_validate(row.snapshot)
    return Review(
        ticket_id=row.ticket_id,
        version=row.version,
        ticket=ticket,
        stored=ticket,
        status=ReviewStatus(row.status),
        round=row.round,
        priority=row.priority,
        findings=tuple(Finding.model_validate(finding) for finding in row.findings),
        proposed_reason=row.proposed_reason,
        claimed_by=row.claimed_by,
        opened_at=row.opened_at,
    )


_LOCK_MANY = (
    select(reviews).where(reviews.c.ticket_id == text("ANY(:ids)")).order_by(reviews.c.ticket_id).with_for_update()
)


async def lock_many(connection: Connection, ticket_ids: Iterable[UUID]) -> dict[UUID, Review]:
    """In id order."""
    rows = await connection.execute(_LOCK_MANY, {"ids": list(ticket_ids)})
    return {row.ticket_id: to_review(row) for row in rows}


_REFERENCED = Referenced(reviews)


async def find(connection: Connection, reference: UUID | str) -> ReviewRow | None:
    """By id or by number."""
    return await _REFERENCED.first(connection, reference)


async def lock(connection: Connection, ticket_id: UUID) -> ReviewRow:
    return (await connection.execute(select(reviews).where(reviews.c.ticket_id == ticket_id).with_for_update())).one()


_WRITTEN: arrays.Columns = {
    "ticket_id": "uuid",
    "status": "text",
    "round": "smallint",
    "snapshot": "jsonb",
    "urgency_rank": "smallint",
    "priority": "smallint",
    "findings": "jsonb",
    "proposed_reason": "text",
    "claimed_by": "text",
    "version": "int",
    "opened_at": "timestamptz",
    "updated_at": "timestamptz",
}
_INSERT = arrays.insert("reviews", {**_WRITTEN, "ticket_no": "text"})
_UPDATE = arrays.update("reviews", _WRITTEN, sparse=("snapshot",))


async def save(connection: Connection, changed: Sequence[Review], now: datetime) -> None:
    """Insert what is new, update the rest, and store the opinions asked for."""
    if fresh := [(*_values(review, now), review.ticket_no) for review in changed if review.is_new]:
        await connection.run(_INSERT, *arrays.by_column(fresh))
    if moved := [_values(review, now) for review in changed if not review.is_new]:
        await connection.run(_UPDATE, *arrays.by_column(moved))
    asked = [
        {
            "approval_id": opinion.approval_id,
            "ticket_id": review.ticket_id,
            "ticket_no": review.ticket_no,
            "kind": OPINION,
            "status": ApprovalStatus.requested,
            "requested_by": opinion.requested_by,
            "requested_at": opinion.requested_at,
        }
        for review in changed
        for opinion in review.opinions
    ]
    if asked:
        await connection.execute(_ASK, asked)


_ASK = approvals.insert()


def _values(review: Review, now: datetime) -> tuple[Any, ...]:
    """In the order of `_WRITTEN`."""
    return (
        review.ticket_id,
        review.status,
        review.round,
        Json.of(review.ticket) if review.ticket is not review.stored else None,
        review.ticket.urgency.rank,
        review.priority,
        _findings(review),
        review.proposed_reason,
        review.claimed_by,
        review.version,
        review.opened_at,
        now,
    )


def _findings(review: Review) -> str:
    return orjson.dumps([finding.model_dump(exclude_none=True) for finding in review.findings]).decode()


async def erase_opinions(connection: Connection, ticket_ids: Sequence[UUID]) -> None:
    await connection.execute(
        update(approvals)
        .where(approvals.c.ticket_id == text("ANY(:ids)"), approvals.c.opinion.is_not(None))
        .values(opinion=""),
        {"ids": ticket_ids},
    )


async def claim_next(connection: Connection, actor: str, seconds: int, count: int) -> list[ReviewRow]:
    """Lease the most urgent reviews that nobody holds; leases run in real database time."""
    rows = await connection.execute(
        text(
            "UPDATE reviews SET claimed_by = :actor,"
            " claimed_until = clock_timestamp() + make_interval(secs => :seconds)"
            " WHERE ticket_id IN (SELECT ticket_id FROM reviews WHERE status = 'waiting'"
            " AND (claimed_by IS NULL OR claimed_until < clock_timestamp())"
            " ORDER BY priority DESC, urgency_rank, opened_at LIMIT :count FOR UPDATE SKIP LOCKED) RETURNING *"
        ),
        {"actor": actor, "seconds": seconds, "count": count},
    )
    return sorted(rows.all(), key=lambda row: (-row.priority, row.urgency_rank, row.opened_at))


async def claim(connection: Connection, ticket_id: UUID, actor: str, seconds: int) -> ReviewRow | None:
    """Lease one review; None when another holds it or it does not wait."""
    rows = await connection.execute(
        text(
            "UPDATE reviews SET claimed_by = :actor,"
            " claimed_until = clock_timestamp() + make_interval(secs => :seconds)"
            " WHERE ticket_id = :id AND status = 'waiting'"
            " AND (claimed_by IS NULL OR claimed_by = :actor OR claimed_until < clock_timestamp()) RETURNING *"
        ),
        {"actor": actor, "seconds": seconds, "id": ticket_id},
    )
    return rows.first()


async def release(connection: Connection, ticket_id: UUID, actor: str) -> bool:
    result = await connection.execute(
        update(reviews)
        .where(reviews.c.ticket_id == ticket_id, reviews.c.claimed_by == actor)
        .values(claimed_by=None, claimed_until=None)
    )
    return result.rowcount == 1


async def held_by_another(connection: Connection, ticket_id: UUID, actor: str) -> bool:
    row = await connection.execute(
        select(reviews.c.ticket_id).where(
            reviews.c.ticket_id == ticket_id,
            reviews.c.claimed_by.is_not(None),
            reviews.c.claimed_by != actor,
            reviews.c.claimed_until >= func.clock_timestamp(),
        )
    )
    return row.first() is not None


async def queue(connection: Connection, limit: int) -> tuple[list[ReviewRow], int]:
    """The most urgent that wait, and how many wait in all."""
    # Written out: with a parameter a plan for any status reads the whole table (2.1 s of a million reviews).
    waiting = reviews.c.status == literal_column("'waiting'")
    rows = await connection.execute(
        select(reviews)
        .where(waiting)
        .order_by(reviews.c.priority.desc(), reviews.c.urgency_rank, reviews.c.opened_at)
        .limit(limit)
    )
    count = await connection.execute(select(func.count()).select_from(reviews).where(waiting))
    return list(rows.all()), count.scalar_one()


async def open_approval(connection: Connection, ticket_id: UUID) -> bool:
    row = await connection.execute(
        select(approvals.c.approval_id).where(
            approvals.c.ticket_id == ticket_id, approvals.c.status == ApprovalStatus.requested
        )
    )
    return row.first() is not None


async def find_approval(connection: Connection, approval_id: UUID) -> ReviewRow | None:
    return (await connection.execute(select(approvals).where(approvals.c.approval_id == approval_id))).first()


async def decide_approval(
    connection: Connection, approval_id: UUID, status: ApprovalStatus, opinion: str, actor: str, now: datetime
) -> bool:
    """False when it was decided before."""
    result = await connection.execute(
        update(approvals)
        .where(approvals.c.approval_id == approval_id, approvals.c.status == ApprovalStatus.requested)
        .values(status=status, opinion=opinion, decided_by=actor, decided_at=now)
    )
    return result.rowcount == 1


async def list_approvals(connection: Connection, status: ApprovalStatus, limit: int) -> list[ReviewRow]:
    query = select(approvals).where(approvals.c.status == status).order_by(approvals.c.requested_at).limit(limit)
    return list((await connection.execute(query)).all())

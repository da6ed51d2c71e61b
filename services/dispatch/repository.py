"""The only SQL of dispatch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import and_, func, literal_column, select, text, update

from services.dispatch.domain.order import IN_HAND, OrderStatus, WorkOrder
from services.dispatch.tables import callbacks, work_orders
from shared.contracts.dispatch import Label, Reply
from shared.contracts.ticket import TicketSnapshot
from shared.database.columns import Json
from shared.database.connection import Connection
from shared.database.engine import Database
from shared.database.rows import RowWriter
from shared.messaging import outbox

OrderRow: TypeAlias = Any


def to_order(row: OrderRow) -> WorkOrder:
    return WorkOrder(
        ticket_id=row.ticket_id,
        version=row.version,
        ticket_no=row.ticket_no,
        ticket=TicketSnapshot.model_validate(row.snapshot) if row.snapshot is not None else None,
        status=OrderStatus(row.status),
        round=row.round,
        branch=row.branch,
        unit=row.unit,
        complaint_city=row.complaint_city,
        instruction=Label.model_validate(row.instruction) if row.instruction is not None else None,
        route_rules=tuple(row.route_rules),
        reply=Reply.model_validate(row.reply) if row.reply is not None else None,
        rung=row.rung,
        reopened=row.reopened,
        attempts=row.attempts,
        calls=row.calls,
        needs_person=row.needs_person,
        outcome=row.outcome,
        branch_version=row.branch_version,
        dispatched_at=row.dispatched_at,
        closed_at=row.closed_at,
    )


async def lock_many(connection: Connection, ticket_ids: Iterable[UUID]) -> dict[UUID, WorkOrder]:
    """In id order."""
    rows = await connection.execute(
        select(work_orders)
        .where(work_orders.c.ticket_id == text("ANY(:ids)"))
        .order_by(work_orders.c.ticket_id)
        .with_for_update(),
        {"ids": list(ticket_ids)},
    )
    return {row.ticket_id: to_order(row) for row in rows}


async def find(connection: Connection, reference: UUID | str) -> OrderRow | None:
    column = work_orders.c.ticket_id if isinstance(reference, UUID) else work_orders.c.ticket_no
    return (await connection.execute(select(work_orders).where(column == reference))).first()


async def lock(connection: Connection, ticket_id: UUID) -> OrderRow:
    query = select(work_orders).where(work_orders.c.ticket_id == ticket_id).with_for_update()
    return (await connection.execute(query)).one()


_ROWS = RowWriter(work_orders, "ticket_id", kept=("ticket_no",))


async def save(connection: Connection, changed: Sequence[WorkOrder], now: datetime) -> None:
    """Insert what is new, update the rest, and store the callbacks made."""
    await _ROWS.write(connection, ((order.is_new, _values(order, now)) for order in changed))
    calls = [
        {
            "ticket_id": order.ticket_id,
            "attempt": call.attempt,
            "outcome": call.outcome,
            "note": call.note,
            "actor": call.actor,
            "at": call.at,
        }
        for order in changed
        for call in order.callbacks
    ]
    if calls:
        await connection.execute(callbacks.insert(), calls)


def _values(order: WorkOrder, now: datetime) -> dict[str, Any]:
    return {
        "ticket_id": order.ticket_id,
        "ticket_no": order.ticket_no,
        "status": order.status,
        "round": order.round,
        "branch": order.branch,
        "unit": order.unit,
        "complaint_city": order.complaint_city,
        "snapshot": Json.of(order.ticket) if order.ticket else None,
        "urgency_rank": order.ticket.urgency.rank if order.ticket else 0,
        "rung": order.rung,
        "route_rules": list(order.route_rules),
        "instruction": order.instruction.model_dump() if order.instruction else None,
        "reply": Json.of(order.reply) if order.reply else None,
        "reopened": order.reopened,
        "attempts": order.attempts,
        "calls": order.calls,
        "needs_person": order.needs_person,
        "outcome": order.outcome,
        "version": order.version,
        "branch_version": order.branch_version,
        "dispatched_at": order.dispatched_at,
        "closed_at": order.closed_at,
        "updated_at": now,
    }


async def erase_notes(connection: Connection, ticket_ids: Sequence[UUID]) -> None:
    """Take away what callback staff wrote about these tickets."""
    await connection.execute(
        update(callbacks).where(callbacks.c.ticket_id == text("ANY(:ids)")).values(note=None), {"ids": ticket_ids}
    )


async def page(connection: Connection, filters: Mapping[str, Any], before: UUID | None, limit: int) -> list[OrderRow]:
    """Newest first, below the cursor."""
    conditions = [work_orders.c[name] == value for name, value in filters.items()]
    if "status" in filters:
        # Written out, so that the partial index of open orders serves it.
        conditions.append(text(f"work_orders.status = '{OrderStatus(filters['status'])}'"))
    if before is not None:
        conditions.append(work_orders.c.ticket_id < before)
    query = (
        select(work_orders)
        .where(and_(work_orders.c.branch.is_not(None), *conditions))
        .order_by(work_orders.c.ticket_id.desc())
        .limit(limit)
    )
    return list((await connection.execute(query)).all())


async def waiting_for_callback(connection: Connection, limit: int) -> tuple[list[OrderRow], int]:
    """The most escalated and urgent first, and how many wait in all."""
    # Written out: with a parameter a plan for any status reads the whole table (1.1 s of a million orders).
    waiting = work_orders.c.status == literal_column("'replied'")
    rows = await connection.execute(
        select(work_orders)
        .where(waiting)
        .order_by(work_orders.c.rung.desc(), work_orders.c.urgency_rank, work_orders.c.ticket_id)
        .limit(limit)
    )
    count = await connection.execute(select(func.count()).select_from(work_orders).where(waiting))
    return list(rows.all()), count.scalar_one()


_UNMARK_OPEN = text(
    "UPDATE outbox SET published_at = NULL, replayed_at = clock_timestamp()"
    " FROM work_orders WHERE outbox.id BETWEEN :first AND :upto"
    " AND outbox.published_at IS NOT NULL AND outbox.subject = work_orders.ticket_id"
    " AND outbox.topic = 'gongdan.dispatch.' || work_orders.branch AND work_orders.status = ANY(:open)"
)


async def publish_open_orders_again(database: Database, alive: Callable[[], None]) -> None:
    """The branches' topics are empty again: what they were told about orders still in their hands goes out anew."""
    async for _ in outbox.unmark(database, _UNMARK_OPEN, {"open": [str(status) for status in IN_HAND]}):
        alive()

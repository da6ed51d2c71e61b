"""The only SQL of dispatch."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, TypeAlias
from uuid import UUID

import orjson
from sqlalchemy import and_, func, literal_column, select, text, update

from services.dispatch.domain.order import IN_HAND, OrderStatus, WorkOrder
from services.dispatch.tables import callbacks, work_orders
from shared.contracts.dispatch import Label, Reply
from shared.contracts.ticket import TicketSnapshot
from shared.database import arrays
from shared.database.columns import Json
from shared.database.connection import Connection, Referenced
from shared.database.engine import Database
from shared.messaging import outbox

OrderRow: TypeAlias = Any


def to_order(row: OrderRow) -> WorkOrder:
    ticket = TicketSnapshot.model_validate(row.snapshot) if row.snapshot is not None else None
    reply = Reply.model_validate(row.reply) if row.reply is not None else None
    return WorkOrder(
        ticket_id=row.ticket_id,
        version=row.version,
        ticket_no=row.ticket_no,
        ticket=ticket,
        status=OrderStatus(row.status),
        round=row.round,
        branch=row.branch,
        unit=row.unit,
        complaint_city=row.complaint_city,
        instruction=Label.model_validate(row.instruction) if row.instruction is not None else None,
        route_rules=tuple(row.route_rules),
        reply=reply,
        stored=(ticket, reply),
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


_LOCK_MANY = (
    select(work_orders)
    .where(work_orders.c.ticket_id == text("ANY(:ids)"))
    .order_by(work_orders.c.ticket_id)
    .with_for_update()
)


async def lock_many(connection: Connection, ticket_ids: Iterable[UUID]) -> dict[UUID, WorkOrder]:
    """In id order."""
    rows = await connection.execute(_LOCK_MANY, {"ids": list(ticket_ids)})
    return {row.ticket_id: to_order(row) for row in rows}


_LOCK_REFERENCED = (
    select(work_orders)
    .where(text("ticket_id = ANY(:ids) OR ticket_no = ANY(:numbers)"))
    .order_by(work_orders.c.ticket_id)
    .with_for_update()
)
_LOCK_FREE = _LOCK_REFERENCED.with_for_update(skip_locked=True)


async def lock_referenced(
    connection: Connection, references: Collection[UUID | str], *, waits: bool
) -> dict[UUID | str, WorkOrder]:
    """In id order; each by its id and by its number. Those that somebody holds are left out, unless it `waits`."""
    ids, numbers = _sorted_out(references)
    statement = _LOCK_REFERENCED if waits else _LOCK_FREE
    rows = await connection.execute(statement, {"ids": ids, "numbers": numbers})
    return {reference: order for order in map(to_order, rows) for reference in (order.ticket_id, order.ticket_no)}


def _sorted_out(references: Collection[UUID | str]) -> tuple[list[UUID], list[str]]:
    """The ids, and the numbers."""
    ids = [each for each in references if isinstance(each, UUID)]
    return ids, [each for each in references if not isinstance(each, UUID)]


_KNOWN = "SELECT ticket_id, ticket_no FROM work_orders WHERE ticket_id = ANY($1::uuid[]) OR ticket_no = ANY($2::text[])"


async def known_of(connection: Connection, references: Collection[UUID | str]) -> frozenset[UUID | str]:
    """Those of which there is an order, by their ids and by their numbers."""
    return frozenset(chain.from_iterable(await connection.fetch(_KNOWN, *_sorted_out(references))))


_REFERENCED = Referenced(work_orders)


async def find(connection: Connection, reference: UUID | str) -> WorkOrder | None:
    """By id or by number."""
    row = await _REFERENCED.first(connection, reference)
    return None if row is None else to_order(row)


_WRITTEN: arrays.Columns = {
    "ticket_id": "uuid",
    "status": "text",
    "round": "smallint",
    "branch": "text",
    "unit": "text",
    "complaint_city": "text",
    "snapshot": "jsonb",
    "urgency_rank": "smallint",
    "rung": "smallint",
    "route_rules": "jsonb",
    "instruction": "jsonb",
    "reply": "jsonb",
    "reopened": "smallint",
    "attempts": "smallint",
    "calls": "smallint",
    "needs_person": "boolean",
    "outcome": "text",
    "version": "int",
    "branch_version": "int",
    "dispatched_at": "timestamptz",
    "closed_at": "timestamptz",
    "updated_at": "timestamptz",
}
_INSERT = arrays.insert("work_orders", {**_WRITTEN, "ticket_no": "text"})
_UPDATE = arrays.update("work_orders", _WRITTEN, sparse=("snapshot", "reply"))
_CALL = callbacks.insert()


async def save(connection: Connection, changed: Sequence[WorkOrder], now: datetime) -> None:
    """Insert what is new, update the rest, and store the callbacks made."""
    if fresh := [(*_values(order, now), order.ticket_no) for order in changed if order.is_new]:
        await connection.run(_INSERT, *arrays.by_column(fresh))
    if moved := [_values(order, now) for order in changed if not order.is_new]:
        await connection.run(_UPDATE, *arrays.by_column(moved))
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
        await connection.execute(_CALL, calls)


def _values(order: WorkOrder, now: datetime) -> tuple[Any, ...]:
    """In the order of `_WRITTEN`."""
    ticket, reply = order.stored
    return (
        order.ticket_id,
        order.status,
        order.round,
        order.branch,
        order.unit,
        order.complaint_city,
        Json.of(order.ticket) if order.ticket is not None and order.ticket is not ticket else None,
        order.ticket.urgency.rank if order.ticket else 0,
        order.rung,
        orjson.dumps(order.route_rules).decode(),
        Json.of(order.instruction) if order.instruction else None,
        Json.of(order.reply) if order.reply is not None and order.reply is not reply else None,
        order.reopened,
        order.attempts,
        order.calls,
        order.needs_person,
        order.outcome,
        order.version,
        order.branch_version,
        order.dispatched_at,
        order.closed_at,
        now,
    )


async def erase_notes(connection: Connection, ticket_ids: Sequence[UUID]) -> None:
    """Take away what callback staff wrote about these tickets."""
    await connection.execute(
        update(callbacks).where(callbacks.c.ticket_id == text("ANY(:ids)")).values(note=None), {"ids": ticket_ids}
    )


async def page(connection: Connection, filters: Mapping[str, Any], before: UUID | None, limit: int) -> list[WorkOrder]:
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
    return [to_order(row) for row in await connection.execute(query)]


async def waiting_for_callback(connection: Connection, limit: int) -> tuple[list[WorkOrder], int]:
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
    return [to_order(row) for row in rows], count.scalar_one()


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

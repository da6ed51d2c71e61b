"""The tables of dispatch."""

from sqlalchemy import (
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.dispatch.domain.order import OrderStatus
from shared.database.columns import Time, one_of
from shared.messaging.tables import plumbing_tables

metadata = MetaData()
plumbing = plumbing_tables(metadata)

work_orders = Table(
    "work_orders",
    metadata,
    Column("ticket_id", Uuid, primary_key=True),
    Column("ticket_no", Text, nullable=False, unique=True),
    Column("status", Text, nullable=False),
    Column("round", SmallInteger, nullable=False),
    Column("branch", Text),
    Column("unit", Text),
    Column("complaint_city", Text),
    Column("snapshot", JSONB),
    Column("urgency_rank", SmallInteger, nullable=False),
    Column("rung", SmallInteger, nullable=False),
    Column("route_rules", JSONB, nullable=False),
    Column("instruction", JSONB),
    Column("reply", JSONB),
    Column("reopened", SmallInteger, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    Column("calls", SmallInteger, nullable=False),
    Column("needs_person", Boolean, nullable=False),
    Column("outcome", Text),
    Column("version", Integer, nullable=False),
    Column("branch_version", Integer, nullable=False),
    Column("dispatched_at", Time),
    Column("closed_at", Time),
    Column("updated_at", Time, nullable=False),
    one_of("status", OrderStatus),
    Index("ix_work_orders_branch", "branch", "ticket_id"),
    Index(
        "ix_work_orders_open",
        "status",
        "branch",
        "ticket_id",
        postgresql_where=text("status IN ('dispatched', 'accepted', 'replied', 'returned', 'raised')"),
    ),
    Index(
        "ix_work_orders_callback",
        text("rung DESC"),
        "urgency_rank",
        "ticket_id",
        postgresql_where=text("status = 'replied'"),
    ),
)

callbacks = Table(
    "callbacks",
    metadata,
    Column("ticket_id", Uuid, primary_key=True),
    Column("attempt", SmallInteger, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("note", Text),
    Column("actor", Text, nullable=False),
    Column("at", Time, nullable=False),
)

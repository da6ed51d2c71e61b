"""The tables of review."""

from sqlalchemy import (
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

from services.review.domain import ApprovalStatus, ReviewStatus
from shared.database.columns import Time, one_of
from shared.messaging.tables import plumbing_tables

metadata = MetaData()
plumbing = plumbing_tables(metadata)


reviews = Table(
    "reviews",
    metadata,
    Column("ticket_id", Uuid, primary_key=True),
    Column("ticket_no", Text, nullable=False, unique=True),
    Column("status", Text, nullable=False),
    Column("round", SmallInteger, nullable=False),
    Column("snapshot", JSONB, nullable=False),
    Column("urgency_rank", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("findings", JSONB, nullable=False),
    Column("proposed_reason", Text),
    Column("claimed_by", Text),
    Column("claimed_until", Time),
    Column("version", Integer, nullable=False),
    Column("opened_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    one_of("status", ReviewStatus),
    Index(
        "ix_reviews_queue",
        text("priority DESC"),
        "urgency_rank",
        "opened_at",
        postgresql_where=text("status = 'waiting'"),
    ),
)

approvals = Table(
    "approvals",
    metadata,
    Column("approval_id", Uuid, primary_key=True),
    Column("ticket_id", Uuid, nullable=False),
    Column("ticket_no", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("opinion", Text),
    Column("requested_by", Text, nullable=False),
    Column("requested_at", Time, nullable=False),
    Column("decided_by", Text),
    Column("decided_at", Time),
    one_of("status", ApprovalStatus),
    Index("ix_approvals_ticket", "ticket_id"),
    Index("uq_approvals_requested", "ticket_id", "kind", unique=True, postgresql_where=text("status = 'requested'")),
)

"""The tables of intake. `personal` is the only place in the whole system that holds a phone or a name, encrypted."""

from sqlalchemy import (
    ARRAY,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.intake.domain import TicketStatus
from shared.database.columns import Time, one_of
from shared.messaging.tables import plumbing_tables

metadata = MetaData()
plumbing = plumbing_tables(metadata)

ticket_numbers = Sequence("ticket_numbers", metadata=metadata)

SEALED_WITH = text("(substring(personal FROM 1 FOR CASE get_byte(personal, 0) WHEN 1 THEN 1 ELSE 5 END))")
"""How a sealed text begins: format, and from format 2 on the id of its key."""

tickets = Table(
    "tickets",
    metadata,
    Column("ticket_id", Uuid, primary_key=True),
    Column("ticket_no", Text, nullable=False, unique=True),
    Column("channel", Text, nullable=False),
    Column("external_id", Text),
    Column("request_hash", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),
    Column("review_status", Text),
    Column("order_status", Text),
    Column("branch", Text),
    Column("outcome", Text),
    Column("customer_key", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("urgency_rank", SmallInteger, nullable=False),
    Column("snapshot", JSONB, nullable=False),
    Column("personal", LargeBinary),
    Column("version", Integer, nullable=False),
    Column("accepted_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("closed_at", Time),
    one_of("status", TicketStatus),
    Index(
        "uq_tickets_external", "channel", "external_id", unique=True, postgresql_where=text("external_id IS NOT NULL")
    ),
    Index("ix_tickets_customer", "customer_key", "ticket_id"),
    Index("ix_tickets_open", "ticket_id", postgresql_where=text("closed_at IS NULL")),
    Index("ix_tickets_sealed_with", SEALED_WITH, postgresql_where=text("personal IS NOT NULL")),
    Index("ix_tickets_kept", "closed_at", postgresql_where=text("personal IS NOT NULL AND closed_at IS NOT NULL")),
)

ticket_timeline = Table(
    "ticket_timeline",
    metadata,
    Column("ticket_id", Uuid, primary_key=True),
    Column("event_id", Uuid, primary_key=True),
    Column("at", Time, nullable=False),
    Column("service", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("rules", ARRAY(Text), nullable=False),
    Column("details", JSONB, nullable=False),
)

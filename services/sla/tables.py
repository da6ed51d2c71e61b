"""The tables of sla."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Double,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.sla.domain.records import ClockState, EscalationStatus, IncidentStatus
from shared.database.columns import Time, one_of
from shared.messaging.tables import plumbing_tables

metadata = MetaData()
plumbing = plumbing_tables(metadata)


complaint_facts = Table(
    "complaint_facts",
    metadata,
    Column("ticket_id", Uuid, primary_key=True),
    Column("ticket_no", Text, nullable=False, unique=True),
    Column("version", Integer, nullable=False),
    Column("snapshot", JSONB, nullable=False),
    Column("customer_key", Text, nullable=False),
    Column("problem_key", Text),
    Column("problem_parts", JSONB, nullable=False),
    Column("vip", Boolean, nullable=False),
    Column("counts", Boolean, nullable=False),
    Column("branch", Text),
    Column("accepted_at", Time, nullable=False),
    Column("archived_at", Time),
    Column("ended", Boolean, nullable=False),
    Column("incident_id", Uuid),
    Column("seen", JSONB, nullable=False),
    Column("cycles", JSONB, nullable=False),
    Column("added", JSONB, nullable=False),
    Index(
        "ix_complaint_facts_archived",
        "customer_key",
        "problem_key",
        "archived_at",
        postgresql_where=text("archived_at IS NOT NULL"),
    ),
    Index("ix_complaint_facts_customer", "customer_key", "accepted_at"),
    Index("ix_complaint_facts_problem", "problem_key", "accepted_at", postgresql_where=text("counts")),
    Index(
        "ix_complaint_facts_alone",
        "problem_key",
        "accepted_at",
        "ticket_id",
        postgresql_where=text("counts AND incident_id IS NULL"),
    ),
    Index("ix_complaint_facts_incident", "incident_id", "ticket_id", postgresql_where=text("incident_id IS NOT NULL")),
)

clocks = Table(
    "clocks",
    metadata,
    Column("clock_id", Uuid, primary_key=True),
    Column("ticket_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("cycle", Integer, nullable=False),
    Column("rule", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("opened_at", Time, nullable=False),
    Column("ladder_from", Time, nullable=False),
    Column("due_at", Time, nullable=False),
    Column("warn_at", Time),
    Column("next_at", Time),
    Column("warned_at", Time),
    Column("breached_at", Time),
    Column("stopped_at", Time),
    Column("boundary", Text, nullable=False),
    Column("soft", Boolean, nullable=False),
    Column("on_breach", Text, nullable=False),
    Column("ladder", Text),
    Column("rung", SmallInteger, nullable=False),
    Column("rung_at", Time),
    Column("provisional", Boolean, nullable=False),
    Column("counted_seconds", Double, nullable=False),
    Column("excluded_seconds", Double, nullable=False),
    Column("explanation", JSONB, nullable=False),
    Column("acknowledged_by", Text),
    Column("acknowledged_at", Time),
    UniqueConstraint("ticket_id", "kind", "cycle", name="uq_clocks_run"),
    one_of("state", ClockState),
    CheckConstraint("breached_at IS NULL OR state = 'breached'", name="breach_kept"),
    Index("ix_clocks_next", "next_at", postgresql_where=text("next_at IS NOT NULL")),
    Index("ix_clocks_provisional", "ticket_id", postgresql_where=text("provisional AND next_at IS NOT NULL")),
)

incidents = Table(
    "incidents",
    metadata,
    Column("incident_id", Uuid, primary_key=True),
    Column("problem_key", Text, nullable=False),
    Column("problem_parts", JSONB, nullable=False),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("first_at", Time, nullable=False),
    Column("last_at", Time, nullable=False),
    Column("opened_at", Time, nullable=False),
    Column("closed_at", Time),
    Column("member_count", Integer, nullable=False),
    one_of("status", IncidentStatus),
    Index("uq_incidents_open", "problem_key", unique=True, postgresql_where=text("status = 'open'")),
    Index("ix_incidents_problem", "problem_key", "last_at"),
    Index("ix_incidents_quiet", "last_at", postgresql_where=text("status = 'open'")),
)

escalations = Table(
    "escalations",
    metadata,
    Column("escalation_id", Uuid, primary_key=True),
    Column("ticket_id", Uuid, nullable=False),
    Column("ticket_no", Text, nullable=False),
    Column("clock_id", Uuid),
    Column("incident_id", Uuid),
    Column("kind", Text, nullable=False),
    Column("rung", SmallInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("event", JSONB, nullable=False),
    Column("raised_at", Time, nullable=False),
    Column("acknowledged_by", Text),
    Column("acknowledged_at", Time),
    Column("settled_at", Time),
    one_of("status", EscalationStatus),
    Index("ix_escalations_ticket", "ticket_id", "escalation_id"),
    Index("ix_escalations_open", "escalation_id", postgresql_where=text("status = 'open'")),
)

calendar_days = Table(
    "calendar_days",
    metadata,
    Column("day", Date, primary_key=True),
    Column("working", Boolean, nullable=False),
    Column("source", Text, nullable=False),
    Column("changed_by", Text),
    Column("changed_at", Time, nullable=False, server_default=text("now()")),
)

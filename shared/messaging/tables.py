"""The plumbing tables that every service has beside its own: outbox, inbox, parked events, dead letters, offsets, the
audit trail, paused topics, the last use of keys and erased tickets."""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from shared.database.columns import Time, one_of


class DeadLetterState(StrEnum):
    open = "open"
    redriven = "redriven"
    discarded = "discarded"


@dataclass(frozen=True)
class Plumbing:
    outbox: Table
    inbox: Table
    inbox_commands: Table
    parked_events: Table
    dead_letters: Table
    consumer_offsets: Table
    idempotency_keys: Table
    audit_trail: Table
    audit_seals: Table
    paused_topics: Table
    key_uses: Table
    erased_subjects: Table


def plumbing_tables(metadata: MetaData) -> Plumbing:
    """Declare the plumbing tables in a service's metadata; its migrations create them."""
    outbox = Table(
        "outbox",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("created_at", Time, primary_key=True, server_default=text("now()")),
        Column("topic", Text, nullable=False),
        Column("subject", Uuid, nullable=False),
        Column("version", Integer),
        Column("event_id", Uuid, nullable=False),
        Column("type", Text, nullable=False),
        Column("time", Time, nullable=False),
        Column("traceparent", Text),
        Column("headers", LargeBinary),
        Column("payload", LargeBinary, nullable=False),
        Column("published_at", Time),
        Column("replayed_at", Time),
        Index("ix_outbox_unpublished", "id", postgresql_where=text("published_at IS NULL")),
        postgresql_partition_by="RANGE (created_at)",
    )
    inbox = Table(
        "inbox",
        metadata,
        Column("subject", Uuid, primary_key=True),
        Column("publisher", Text, primary_key=True),
        Column("version", Integer, nullable=False),
    )
    inbox_commands = Table(
        "inbox_commands",
        metadata,
        Column("event_id", Uuid, primary_key=True),
        Column("seen_at", Time, nullable=False, server_default=text("now()")),
    )
    parked_events = Table(
        "parked_events",
        metadata,
        Column("subject", Uuid, primary_key=True),
        Column("publisher", Text, primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("topic", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("record_offset", BigInteger, nullable=False),
        Column("headers", LargeBinary, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("reason", Text, nullable=False),
        Column("parked_at", Time, nullable=False, server_default=text("now()")),
        Index("ix_parked_events_parked_at", "parked_at"),
    )
    dead_letters = Table(
        "dead_letters",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("topic", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("record_offset", BigInteger, nullable=False),
        Column("record_key", LargeBinary),
        Column("headers", LargeBinary, nullable=False),
        Column("payload", LargeBinary),
        Column("error", Text, nullable=False),
        Column("attempts", SmallInteger, nullable=False),
        Column("failed_at", Time, nullable=False, server_default=text("now()")),
        Column("state", Text, nullable=False, server_default="open"),
        Column("settled_at", Time),
        Column("settled_by", Text),
        Column("settled_reason", Text),
        one_of("state", DeadLetterState),
        Index("ix_dead_letters_failed_at", "failed_at"),
        Index("ix_dead_letters_open", "id", postgresql_where=text("state = 'open'")),
    )
    consumer_offsets = Table(
        "consumer_offsets",
        metadata,
        Column("topic", Text, primary_key=True),
        Column("partition", Integer, primary_key=True),
        Column("next_offset", BigInteger, nullable=False),
        Column("incarnation", Text, nullable=False),
        Column("record_at", Time),
    )
    idempotency_keys = Table(
        "idempotency_keys",
        metadata,
        Column("client", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("request_hash", LargeBinary, nullable=False),
        Column("status", SmallInteger),
        Column("answer", LargeBinary),
        Column("created_at", Time, nullable=False, server_default=text("now()")),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )
    audit_trail = Table(
        "audit_trail",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("xid", BigInteger, nullable=False, server_default=text("(pg_current_xact_id()::text)::bigint")),
        Column("at", Time, nullable=False, server_default=text("clock_timestamp()")),
        Column("actor", Text, nullable=False),
        Column("action", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("details", Text, nullable=False),
        Index("ix_audit_trail_sealing", "xid", "id", unique=True),
        Index(
            "ix_audit_trail_about",
            "subject",
            postgresql_using="brin",
            postgresql_ops={"subject": "text_bloom_ops"},
            postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
        ),
    )
    audit_seals = Table(
        "audit_seals",
        metadata,
        Column("number", BigInteger, primary_key=True, autoincrement=False),
        Column("sealed_at", Time, nullable=False, server_default=text("clock_timestamp()")),
        Column("last_xid", BigInteger, nullable=False),
        Column("last_id", BigInteger, nullable=False),
        Column("ids", ARRAY(BigInteger), nullable=False),
        Column("digests", LargeBinary, nullable=False),
        Column("previous", LargeBinary, nullable=False),
        Column("hash", LargeBinary, nullable=False),
    )
    paused_topics = Table(
        "paused_topics",
        metadata,
        Column("topic", Text, primary_key=True),
        Column("paused_at", Time, nullable=False, server_default=text("now()")),
        Column("paused_by", Text, nullable=False),
        Column("reason", Text, nullable=False),
    )
    key_uses = Table(
        "key_uses",
        metadata,
        Column("key_id", Text, primary_key=True),
        Column("last_used_at", Time, nullable=False),
    )
    erased_subjects = Table(
        "erased_subjects",
        metadata,
        Column("subject", Uuid, primary_key=True),
        Column("erased_at", Time, nullable=False, server_default=text("now()")),
        Column("scrubbed_at", Time),
        Index("ix_erased_subjects_unscrubbed", "erased_at", postgresql_where=text("scrubbed_at IS NULL")),
    )
    return Plumbing(
        outbox,
        inbox,
        inbox_commands,
        parked_events,
        dead_letters,
        consumer_offsets,
        idempotency_keys,
        audit_trail,
        audit_seals,
        paused_topics,
        key_uses,
        erased_subjects,
    )

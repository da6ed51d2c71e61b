"""The plumbing tables as the first migration of every service makes them. Frozen: a later change is a new file."""

STATEMENTS = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY,
    created_at timestamptz NOT NULL DEFAULT now(),
    topic text NOT NULL,
    subject uuid NOT NULL,
    version integer,
    event_id uuid NOT NULL,
    type text NOT NULL,
    time timestamptz NOT NULL,
    traceparent text,
    headers bytea,
    payload bytea NOT NULL,
    published_at timestamptz,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX ix_outbox_unpublished ON outbox (id) WHERE published_at IS NULL;
CREATE TABLE outbox_default PARTITION OF outbox DEFAULT;
CREATE TABLE inbox (
    subject uuid NOT NULL,
    publisher text NOT NULL,
    version integer NOT NULL,
    PRIMARY KEY (subject, publisher)
) WITH (fillfactor = 80);
CREATE TABLE inbox_commands (
    event_id uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE parked_events (
    subject uuid NOT NULL,
    publisher text NOT NULL,
    version integer NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    headers bytea NOT NULL,
    payload bytea NOT NULL,
    reason text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, publisher, version)
);
CREATE TABLE dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    record_key bytea,
    headers bytea NOT NULL,
    payload bytea,
    error text NOT NULL,
    attempts smallint NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ix_dead_letters_failed_at ON dead_letters (failed_at);
CREATE TABLE consumer_offsets (
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    incarnation text NOT NULL,
    record_at timestamptz,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
CREATE TABLE idempotency_keys (
    client text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    status smallint,
    answer bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client, key)
);
CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at);
"""

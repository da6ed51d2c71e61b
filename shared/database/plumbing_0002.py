"""The plumbing tables that came second: audit trail, settled dead letters, paused topics, last use of keys. Frozen."""

STATEMENTS = """
CREATE TABLE audit_trail (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    details text NOT NULL
);
CREATE UNIQUE INDEX ix_audit_trail_sealing ON audit_trail (xid, id);
CREATE INDEX ix_audit_trail_subject ON audit_trail (subject, id);
CREATE TABLE audit_seals (
    number bigint PRIMARY KEY,
    sealed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_xid bigint NOT NULL,
    last_id bigint NOT NULL,
    ids bigint[] NOT NULL,
    digests bytea NOT NULL,
    previous bytea NOT NULL,
    hash bytea NOT NULL
);
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION ''the audit trail is append-only''; END';
CREATE TRIGGER audit_trail_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_trail
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_seals_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seals
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
ALTER TABLE dead_letters
    ADD COLUMN state text NOT NULL DEFAULT 'open',
    ADD COLUMN settled_at timestamptz,
    ADD COLUMN settled_by text,
    ADD COLUMN settled_reason text,
    ADD CONSTRAINT state_known CHECK (state IN ('open', 'redriven', 'discarded'));
CREATE INDEX ix_dead_letters_open ON dead_letters (id) WHERE state = 'open';
CREATE TABLE paused_topics (
    topic text PRIMARY KEY,
    paused_at timestamptz NOT NULL DEFAULT now(),
    paused_by text NOT NULL,
    reason text NOT NULL
);
CREATE TABLE key_uses (
    key_id text PRIMARY KEY,
    last_used_at timestamptz NOT NULL
);
"""

"""Complaint facts, clocks, incidents, escalations, the working calendar, and the plumbing."""

from shared.database import plumbing_0001
from shared.database.migrations import run_script

revision = "0001_clocks"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE complaint_facts (
    ticket_id uuid PRIMARY KEY,
    ticket_no text NOT NULL UNIQUE,
    version integer NOT NULL,
    snapshot jsonb NOT NULL,
    customer_key text NOT NULL,
    problem_key text,
    problem_parts jsonb NOT NULL,
    vip boolean NOT NULL,
    counts boolean NOT NULL,
    branch text,
    accepted_at timestamptz NOT NULL,
    archived_at timestamptz,
    ended boolean NOT NULL,
    incident_id uuid,
    seen jsonb NOT NULL,
    cycles jsonb NOT NULL,
    added jsonb NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX ix_complaint_facts_archived ON complaint_facts (customer_key, problem_key, archived_at)
    WHERE archived_at IS NOT NULL;
CREATE INDEX ix_complaint_facts_customer ON complaint_facts (customer_key, accepted_at);
CREATE INDEX ix_complaint_facts_problem ON complaint_facts (problem_key, accepted_at) WHERE counts;
CREATE INDEX ix_complaint_facts_loose ON complaint_facts (problem_key, accepted_at)
    WHERE counts AND incident_id IS NULL;
CREATE INDEX ix_complaint_facts_incident ON complaint_facts (incident_id, ticket_id) WHERE incident_id IS NOT NULL;
-- next_at holds the next moment at which anything is due, so the cost of the sweep follows what is due. Dead entries
-- gather at the head of that index; frequent small vacuums keep it short (findings B5).
CREATE TABLE clocks (
    clock_id uuid PRIMARY KEY,
    ticket_id uuid NOT NULL,
    kind text NOT NULL,
    cycle integer NOT NULL,
    rule text NOT NULL,
    state text NOT NULL,
    started_at timestamptz NOT NULL,
    opened_at timestamptz NOT NULL,
    ladder_from timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    warn_at timestamptz,
    next_at timestamptz,
    warned_at timestamptz,
    breached_at timestamptz,
    stopped_at timestamptz,
    boundary text NOT NULL,
    soft boolean NOT NULL,
    on_breach text NOT NULL,
    ladder text,
    rung smallint NOT NULL,
    rung_at timestamptz,
    provisional boolean NOT NULL,
    counted_seconds double precision NOT NULL,
    excluded_seconds double precision NOT NULL,
    explanation jsonb NOT NULL,
    acknowledged_by text,
    acknowledged_at timestamptz,
    CONSTRAINT uq_clocks_run UNIQUE (ticket_id, kind, cycle),
    CONSTRAINT state_known CHECK (state IN ('running', 'met', 'breached', 'stopped')),
    CONSTRAINT breach_kept CHECK (breached_at IS NULL OR state = 'breached')
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX ix_clocks_next ON clocks (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX ix_clocks_provisional ON clocks (ticket_id) WHERE provisional AND next_at IS NOT NULL;
CREATE TABLE incidents (
    incident_id uuid PRIMARY KEY,
    problem_key text NOT NULL,
    problem_parts jsonb NOT NULL,
    status text NOT NULL,
    version integer NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    member_count integer NOT NULL,
    CONSTRAINT status_known CHECK (status IN ('open', 'closed'))
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX uq_incidents_open ON incidents (problem_key) WHERE status = 'open';
CREATE INDEX ix_incidents_problem ON incidents (problem_key, last_at);
CREATE INDEX ix_incidents_quiet ON incidents (last_at) WHERE status = 'open';
CREATE TABLE escalations (
    escalation_id uuid PRIMARY KEY,
    ticket_id uuid NOT NULL,
    ticket_no text NOT NULL,
    clock_id uuid,
    incident_id uuid,
    kind text NOT NULL,
    rung smallint NOT NULL,
    status text NOT NULL,
    event jsonb NOT NULL,
    raised_at timestamptz NOT NULL,
    acknowledged_by text,
    acknowledged_at timestamptz,
    settled_at timestamptz,
    CONSTRAINT status_known CHECK (status IN ('open', 'acknowledged', 'settled'))
) WITH (fillfactor = 85);
CREATE INDEX ix_escalations_ticket ON escalations (ticket_id, escalation_id);
CREATE INDEX ix_escalations_open ON escalations (escalation_id) WHERE status = 'open';
CREATE TABLE calendar_days (
    day date PRIMARY KEY,
    working boolean NOT NULL,
    source text NOT NULL,
    changed_by text,
    changed_at timestamptz NOT NULL DEFAULT now()
);
"""


def upgrade() -> None:
    run_script(plumbing_0001.STATEMENTS)
    run_script(STATEMENTS)

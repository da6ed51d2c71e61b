"""Reviews, approvals, and the plumbing."""

from shared.database import plumbing_0001
from shared.database.migrations import run_script

revision = "0001_reviews"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE reviews (
    ticket_id uuid PRIMARY KEY,
    ticket_no text NOT NULL UNIQUE,
    status text NOT NULL,
    round smallint NOT NULL,
    snapshot jsonb NOT NULL,
    urgency_rank smallint NOT NULL,
    priority smallint NOT NULL,
    findings jsonb NOT NULL,
    proposed_reason text,
    claimed_by text,
    claimed_until timestamptz,
    version integer NOT NULL,
    opened_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT status_known CHECK (status IN ('waiting', 'approved', 'returned', 'merged', 'ended'))
) WITH (fillfactor = 85);
CREATE INDEX ix_reviews_queue ON reviews (priority DESC, urgency_rank, opened_at) WHERE status = 'waiting';
CREATE TABLE approvals (
    approval_id uuid PRIMARY KEY,
    ticket_id uuid NOT NULL,
    ticket_no text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    opinion text,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL,
    decided_by text,
    decided_at timestamptz,
    CONSTRAINT status_known CHECK (status IN ('requested', 'granted', 'refused'))
);
CREATE UNIQUE INDEX uq_approvals_requested ON approvals (ticket_id, kind) WHERE status = 'requested';
"""


def upgrade() -> None:
    run_script(plumbing_0001.STATEMENTS)
    run_script(STATEMENTS)

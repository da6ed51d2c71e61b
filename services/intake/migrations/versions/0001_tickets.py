"""Tickets, their timeline, and the plumbing."""

from shared.database import plumbing_0001
from shared.database.migrations import run_script

revision = "0001_tickets"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE SEQUENCE ticket_numbers;
CREATE TABLE tickets (
    ticket_id uuid PRIMARY KEY,
    ticket_no text NOT NULL UNIQUE,
    channel text NOT NULL,
    external_id text,
    request_hash bytea NOT NULL,
    status text NOT NULL,
    review_status text,
    order_status text,
    branch text,
    outcome text,
    customer_key text NOT NULL,
    category text NOT NULL,
    urgency_rank smallint NOT NULL,
    snapshot jsonb NOT NULL,
    personal bytea,
    version integer NOT NULL,
    accepted_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    closed_at timestamptz,
    CONSTRAINT status_known CHECK (status IN (
        'registered', 'in_review', 'returned', 'approved', 'dispatched', 'accepted', 'replied', 'callback',
        'returned_by_branch', 'raised', 'closed', 'answered', 'merged', 'withdrawn'))
) WITH (fillfactor = 85);
CREATE UNIQUE INDEX uq_tickets_external ON tickets (channel, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX ix_tickets_customer ON tickets (customer_key, ticket_id);
CREATE TABLE ticket_timeline (
    ticket_id uuid NOT NULL,
    event_id uuid NOT NULL,
    at timestamptz NOT NULL,
    service text NOT NULL,
    type text NOT NULL,
    actor text NOT NULL,
    rules text[] NOT NULL,
    details jsonb NOT NULL,
    PRIMARY KEY (ticket_id, event_id)
);
"""


def upgrade() -> None:
    run_script(plumbing_0001.STATEMENTS)
    run_script(STATEMENTS)

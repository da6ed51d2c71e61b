"""Work orders, callbacks, and the plumbing."""

from shared.database import plumbing_0001
from shared.database.migrations import run_script

revision = "0001_work_orders"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE work_orders (
    ticket_id uuid PRIMARY KEY,
    ticket_no text NOT NULL UNIQUE,
    status text NOT NULL,
    round smallint NOT NULL,
    branch text,
    unit text,
    complaint_city text,
    snapshot jsonb,
    urgency_rank smallint NOT NULL,
    rung smallint NOT NULL,
    route_rules jsonb NOT NULL,
    instruction jsonb,
    reply jsonb,
    reopened smallint NOT NULL,
    attempts smallint NOT NULL,
    calls smallint NOT NULL,
    needs_person boolean NOT NULL,
    outcome text,
    version integer NOT NULL,
    branch_version integer NOT NULL,
    dispatched_at timestamptz,
    closed_at timestamptz,
    updated_at timestamptz NOT NULL,
    CONSTRAINT status_known CHECK (status IN (
        'dispatched', 'accepted', 'replied', 'returned', 'raised', 'closed', 'ended'))
) WITH (fillfactor = 85);
CREATE INDEX ix_work_orders_branch ON work_orders (branch, ticket_id);
CREATE INDEX ix_work_orders_callback ON work_orders (rung DESC, urgency_rank, ticket_id) WHERE status = 'replied';
CREATE TABLE callbacks (
    ticket_id uuid NOT NULL,
    attempt smallint NOT NULL,
    outcome text NOT NULL,
    note text,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (ticket_id, attempt)
);
"""


def upgrade() -> None:
    run_script(plumbing_0001.STATEMENTS)
    run_script(STATEMENTS)

"""Reviews in their millions: storage parameters, and the approvals of a ticket."""

from shared.database import plumbing_0005
from shared.database.migrations import drop_index, make_index, run_script

revision = "0005_growth"
down_revision = "0004_replays"
branch_labels = None
depends_on = None

# Whatever changes of a review moves its place in the queue's index, so none is HOT and free room would be wasted.
STATEMENTS = """
ALTER TABLE reviews SET (fillfactor = 100, autovacuum_vacuum_scale_factor = 0.05);
"""
# An erasure takes the opinions out of a ticket's approvals, and read all of them.
INDEXES = {"ix_approvals_ticket": "ON approvals (ticket_id)"}


def upgrade() -> None:
    run_script(plumbing_0005.STATEMENTS)
    run_script(STATEMENTS)
    for name, definition in (plumbing_0005.INDEXES | INDEXES).items():
        make_index(name, definition)
    for name in plumbing_0005.DROPPED:
        drop_index(name)

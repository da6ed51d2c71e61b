"""Work orders in their millions: storage parameters, and an index of the open ones."""

from shared.database import plumbing_0005
from shared.database.migrations import drop_index, make_index, run_script

revision = "0005_growth"
down_revision = "0004_replays"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE work_orders SET (autovacuum_vacuum_scale_factor = 0.05);
"""
# A branch asks for its open orders all day: not among the hundreds of thousands that it closed.
INDEXES = {
    "ix_work_orders_open": (
        "ON work_orders (status, branch, ticket_id)"
        " WHERE status IN ('dispatched', 'accepted', 'replied', 'returned', 'raised')"
    )
}


def upgrade() -> None:
    run_script(plumbing_0005.STATEMENTS)
    run_script(STATEMENTS)
    for name, definition in (plumbing_0005.INDEXES | INDEXES).items():
        make_index(name, definition)
    for name in plumbing_0005.DROPPED:
        drop_index(name)

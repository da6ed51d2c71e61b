"""Tickets in their millions: storage parameters, and an index of the open ones."""

from shared.database import plumbing_0005
from shared.database.migrations import drop_index, make_index, run_script

revision = "0005_growth"
down_revision = "0004_replays"
branch_labels = None
depends_on = None

# Rows of 1.7 KB that change some five times: with half of each page free the changes up to the last are HOT (6 of 10
# in a whole life, none before), 77 instead of 124 µs for all of them, and vacuum has no entries of theirs to look for
# in five indexes. It costs 2 KB of disk a ticket. Rows stored before keep their pages.
STATEMENTS = """
ALTER TABLE tickets SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE ticket_timeline SET (autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_freeze_min_age = 0);
"""
# Lists of open tickets read these and not the millions that are closed. It hangs on `closed_at` alone, which changes
# twice in a life: an index on the status would make every change of it dearer.
INDEXES = {"ix_tickets_open": "ON tickets (ticket_id) WHERE closed_at IS NULL"}


def upgrade() -> None:
    run_script(plumbing_0005.STATEMENTS)
    run_script(STATEMENTS)
    for name, definition in (plumbing_0005.INDEXES | INDEXES).items():
        make_index(name, definition)
    for name in plumbing_0005.DROPPED:
        drop_index(name)

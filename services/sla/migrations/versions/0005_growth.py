"""Clocks and escalations in their millions: storage parameters."""

from shared.database import plumbing_0005
from shared.database.migrations import drop_index, make_index, run_script

revision = "0005_growth"
down_revision = "0004_replays"
branch_labels = None
depends_on = None

# Every change of a clock moves `next_at`, which is indexed: none is HOT, so room kept free in its pages is wasted. The
# floor of the threshold spares small tables; in large ones the share counts.
STATEMENTS = """
ALTER TABLE clocks SET (fillfactor = 100, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE incidents SET (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE escalations SET (autovacuum_vacuum_scale_factor = 0.05);
"""
INDEXES: dict[str, str] = {}


def upgrade() -> None:
    run_script(plumbing_0005.STATEMENTS)
    run_script(STATEMENTS)
    for name, definition in (plumbing_0005.INDEXES | INDEXES).items():
        make_index(name, definition)
    for name in plumbing_0005.DROPPED:
        drop_index(name)

"""The second part of the plumbing."""

from shared.database import plumbing_0002
from shared.database.migrations import run_script

revision = "0002_operations"
down_revision = "0001_work_orders"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script(plumbing_0002.STATEMENTS)

"""The third part of the plumbing."""

from shared.database import plumbing_0003
from shared.database.migrations import run_script

revision = "0003_erasure"
down_revision = "0002_operations"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script(plumbing_0003.STATEMENTS)

"""The third part of the plumbing; and finding what is sealed with an old key, and what is kept too long."""

from shared.database import plumbing_0003
from shared.database.migrations import run_script

revision = "0003_erasure"
down_revision = "0002_operations"
branch_labels = None
depends_on = None

# On a large table they are made by hand before (docs/operations.md, Database).
# The first byte of a sealed text is its format; from format 2 on, four bytes of the key's id follow.
STATEMENTS = """
CREATE INDEX IF NOT EXISTS ix_tickets_sealed_with ON tickets
    ((substring(personal FROM 1 FOR CASE get_byte(personal, 0) WHEN 1 THEN 1 ELSE 5 END))) WHERE personal IS NOT NULL;
CREATE INDEX IF NOT EXISTS ix_tickets_kept ON tickets (closed_at) WHERE personal IS NOT NULL AND closed_at IS NOT NULL;
"""


def upgrade() -> None:
    run_script(plumbing_0003.STATEMENTS)
    run_script(STATEMENTS)

"""Events that are sent again are told apart from those that were never published."""

from alembic import op

revision = "0004_replays"
down_revision = "0003_erasure"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE outbox ADD COLUMN replayed_at timestamptz")

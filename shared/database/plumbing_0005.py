"""What keeps the plumbing tables cheap when they hold millions of rows. Frozen: a later change is a new file.

Nothing here rewrites a table or holds it: storage parameters count for what comes, and the indexes are made while
others write. What it helps is in docs/scaling.md.
"""

# Rows that are only ever inserted: vacuumed in small pieces, and frozen at once, so that no page is visited again. By
# the server's own settings a table of 60 million rows waits for 12 million more, and later for one freeze of all.
STATEMENTS = """
ALTER TABLE audit_trail SET (autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_freeze_min_age = 0);
ALTER TABLE audit_seals SET (autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_freeze_min_age = 0);
ALTER TABLE idempotency_keys SET (autovacuum_vacuum_scale_factor = 0.05);
"""

INDEXES = {
    # Health counts what is parked for long every 5 s; without it each count reads every parked record.
    "ix_parked_events_parked_at": "ON parked_events (parked_at)",
    # By subject only people ask. A tree was the largest index of the trail, and the dearest to write.
    "ix_audit_trail_about": (
        "ON audit_trail USING brin (subject text_bloom_ops) WITH (pages_per_range = 32, autosummarize = on)"
    ),
}
DROPPED = ("ix_audit_trail_subject",)

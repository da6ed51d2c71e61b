"""The plumbing tables that came third: whose texts were erased, and must not come back. Frozen."""

STATEMENTS = """
CREATE TABLE erased_subjects (
    subject uuid PRIMARY KEY,
    erased_at timestamptz NOT NULL DEFAULT now(),
    scrubbed_at timestamptz
);
CREATE INDEX ix_erased_subjects_unscrubbed ON erased_subjects (erased_at) WHERE scrubbed_at IS NULL;
"""

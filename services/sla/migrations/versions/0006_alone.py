"""Complaints of a problem that belong to no incident, in an order that no other index has."""

from shared.database.migrations import drop_index, make_index

revision = "0006_alone"
down_revision = "0005_growth"
branch_labels = None
depends_on = None

# By (problem_key, accepted_at) it looked no cheaper than `ix_complaint_facts_problem` while few complaints belong to
# an incident, and the planner took the younger one. After a REINDEX or a restore that could be the one with all members
# of the incident in it: 2,000 pages a look instead of 6.
INDEX = "ON complaint_facts (problem_key, accepted_at, ticket_id) WHERE counts AND incident_id IS NULL"


def upgrade() -> None:
    make_index("ix_complaint_facts_alone", INDEX)
    drop_index("ix_complaint_facts_loose")

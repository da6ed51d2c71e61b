"""Migrations that make indexes while others write, and a plan that must hold when much is stored."""

import asyncio

import asyncpg
import pytest

from services.sla.repository.near import LOOSE
from shared.database.migrations import upgrade
from tests.support.parts import Databases

ROW = "INSERT INTO parked_events SELECT uuidv7(), 'x', $1, 't', 0, 0, '', '', 'r'"
# Two years of complaints of which none belongs to an incident.
FACTS = """
INSERT INTO complaint_facts (ticket_id, ticket_no, version, snapshot, customer_key, problem_key, problem_parts, vip,
    counts, accepted_at, ended, seen, cycles, added)
SELECT uuidv7(), n::text, 1, '{}', 'c' || n, 'p' || n % 500, '{}', false, true, now() - n * interval '50 minutes',
    false, '{}', '{}', '{}' FROM generate_series(1, 20000) AS n
"""


async def again(databases: Databases, before: str) -> tuple[bool, bool]:
    """Whether the index is there and whole after `0005_growth` has run again, with `before` done to it first."""
    url = await databases.fresh("review")
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute(before)
        await connection.execute("UPDATE alembic_version SET version_num = '0004_replays'")
        await asyncio.to_thread(upgrade, "review", url)
        row = await connection.fetchrow(
            "SELECT indisvalid, to_regclass('ix_audit_trail_subject') IS NULL AS gone FROM pg_index"
            " WHERE indexrelid = 'ix_parked_events_parked_at'::regclass"
        )
        return row["indisvalid"], row["gone"]
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "before",
    [
        "SELECT 1",
        "DROP INDEX ix_parked_events_parked_at",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_parked_events_parked_at'::regclass",
        "CREATE INDEX ix_audit_trail_subject ON audit_trail (subject, id)",
    ],
    ids=["done before", "died before it", "died within it", "died before the drop"],
)
async def test_a_run_that_died_is_run_again(databases: Databases, before: str) -> None:
    assert await again(databases, before) == (True, True)


async def test_an_index_is_made_while_a_row_is_being_written(databases: Databases) -> None:
    url = await databases.fresh("review")
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    writer = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute("DROP INDEX ix_parked_events_parked_at")
        await connection.execute("UPDATE alembic_version SET version_num = '0004_replays'")
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(ROW, 1)
        migration = asyncio.create_task(asyncio.to_thread(upgrade, "review", url))
        await asyncio.sleep(1)
        # Nobody waits for it, and it waits for us.
        await writer.execute(ROW, 2)
        assert not migration.done()
        await transaction.commit()
        await asyncio.wait_for(migration, 30)
        assert await connection.fetchval(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_parked_events_parked_at'::regclass"
        )
    finally:
        await writer.close()
        await connection.close()


async def test_complaints_without_an_incident_are_not_looked_for_among_the_members_of_one(databases: Databases) -> None:
    connection = await asyncpg.connect((await databases.fresh("sla")).replace("+asyncpg", ""))
    try:
        await connection.execute(FACTS)
        # Of two indexes that look alike the planner takes the younger one.
        await connection.execute("REINDEX INDEX CONCURRENTLY ix_complaint_facts_problem")
        await connection.execute("VACUUM ANALYZE complaint_facts")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE loose (text[], timestamptz[], timestamptz[], int) AS {LOOSE}")
        plan = await connection.fetch("EXPLAIN EXECUTE loose ('{p1}', '{2026-01-01}', '{2026-02-01}', 1000)")
        assert "ix_complaint_facts_alone" in "\n".join(row[0] for row in plan)
    finally:
        await connection.close()

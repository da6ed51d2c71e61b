"""Invariant 12 of the audit: leaked sessions, forgotten transactions, large tables that are read from end to end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from deploy.audit import quiet
from deploy.audit.evidence import Scope
from tests.support.parts import Databases

ALLOWED = quiet.POOL_SIZE + quiet.BACKGROUND_CONNECTIONS


async def measured(url: str) -> list[str]:
    scope = Scope()
    await quiet.measure_connections(scope, {"review": url})
    assert scope.connections > 0
    return scope.leaks


@contextlib.asynccontextmanager
async def sessions(url: str, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    """As the pools of a service open them."""
    plain = url.replace("+asyncpg", "")
    opened = [await asyncpg.connect(plain, server_settings={"application_name": "gongdan"}) for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            await connection.close()


async def test_more_sessions_than_the_pools_allow_are_a_leak(databases: Databases) -> None:
    url = await databases.fresh("review")
    async with sessions(url, ALLOWED):
        assert await measured(url) == []
    async with sessions(url, ALLOWED + 1):
        assert await measured(url) == [f"review: {ALLOWED + 1} connections, the pools allow {ALLOWED}"]


async def test_a_forgotten_transaction_is_named_by_its_session(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "IDLE_LIMIT_SECONDS", 0)
    url = await databases.fresh("review")
    async with sessions(url, 1) as (connection,):
        assert await measured(url) == []
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        async with connection.transaction():
            await connection.fetchval("SELECT 1")
            await asyncio.sleep(0.1)
            (leak,) = await measured(url)
    assert leak.startswith(f"review: session {pid} (gongdan) idle in a transaction")


@pytest.mark.parametrize(("rows", "found"), [(100, False), (quiet.LARGE_TABLE_ROWS + 1, True)])
async def test_reading_a_large_outbox_from_end_to_end_is_seen(databases: Databases, rows: int, found: bool) -> None:
    url = await databases.fresh("review")
    async with sessions(url, 1) as (connection,):
        await connection.execute(
            "INSERT INTO outbox (topic, subject, event_id, type, time, payload, published_at) SELECT 'gongdan.review',"
            " gen_random_uuid(), gen_random_uuid(), 'x', now(), '', now() FROM generate_series(1, $1::int)",
            rows,
        )
    over = asyncio.Event()

    async def scan() -> None:
        while not over.is_set():
            # A session tells the statistics what it did when it ends.
            async with sessions(url, 1) as (reader,):
                await reader.execute("SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT * FROM outbox")

    scanning = asyncio.create_task(scan())
    leaks = await measured(url)
    over.set()
    await scanning
    assert [leak for leak in leaks if "sequential scans of outbox_default" in leak] == leaks
    assert bool(leaks) is found

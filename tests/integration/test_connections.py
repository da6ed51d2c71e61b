"""Connections to PostgreSQL that go bad: thrown away, and the work is tried again."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from shared.database.engine import Database, Transaction
from shared.database.leases import Leases
from shared.errors import Transient
from tests.support.parts import Databases

BROKEN = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")


@pytest_asyncio.fixture
async def database(databases: Databases) -> AsyncIterator[Database]:
    found = Database(await databases.fresh("review"), pool_size=1)
    yield found
    await found.close()


async def backend(database: Database) -> int:
    """The process of PostgreSQL that serves the next connection."""
    found: int = await database.read(lambda connection: connection.scalar(text("SELECT pg_backend_pid()")))
    return found


async def test_nobody_gets_a_connection_that_broke_in_use(database: Database) -> None:
    before = await backend(database)
    assert await backend(database) == before
    with pytest.raises(Transient, match="InternalClientError"):
        async with database.connection():
            raise BROKEN
    assert await backend(database) != before


@pytest.mark.parametrize("arguments", [(), (1, 2), ("one",)], ids=["too few", "too many", "of another type"])
async def test_a_statement_with_wrong_arguments_is_not_tried_for_ever(
    database: Database, arguments: tuple[Any, ...]
) -> None:
    """It is a fault of ours: a consumer must bury the record, not wait for a database that is not away."""
    with pytest.raises((asyncpg.InterfaceError, asyncpg.DataError)):
        await database.read(lambda connection: connection.fetch("SELECT $1::int", *arguments))


async def test_a_transaction_that_failed_leaves_its_connection_clean(database: Database) -> None:
    before = await backend(database)

    async def fail(transaction: Transaction) -> None:
        await transaction.connection.execute(text("CREATE TABLE half (id int)"))
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        await database.write(fail)
    assert await backend(database) == before
    assert await database.read(lambda connection: connection.scalar(text("SELECT to_regclass('half')"))) is None


async def test_a_failure_that_was_swallowed_fails_at_the_commit(database: Database) -> None:
    async def swallow(transaction: Transaction) -> None:
        await transaction.connection.execute(text("CREATE TABLE half (id int)"))
        with pytest.raises(asyncpg.UndefinedTableError):
            await transaction.connection.execute(text("SELECT * FROM nowhere"))

    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await database.write(swallow)
    assert await database.read(lambda connection: connection.scalar(text("SELECT to_regclass('half')"))) is None


@pytest.mark.parametrize(
    ("sql", "rows", "count"),
    [
        ("WITH one AS (SELECT 1 AS id) SELECT id FROM one", [(1,)], 1),
        ("WITH one AS (SELECT 1 AS id) UPDATE things SET id = things.id FROM one", [], 3),
        ("UPDATE things SET id = id + 10 WHERE id > 1 RETURNING id", [(12,), (13,)], 2),
        ("WITH held AS (SELECT id FROM things WHERE id > 100 FOR UPDATE) SELECT id FROM held", [], 0),
        ("DELETE FROM things", [], 3),
    ],
)
async def test_statements_tell_their_rows_or_how_many_they_touched(
    database: Database, sql: str, rows: list[Any], count: int
) -> None:
    async with database.transaction() as transaction:
        await transaction.connection.execute(text("CREATE TEMP TABLE things ON COMMIT DROP AS SELECT 1 AS id"))
        await transaction.connection.execute(text("INSERT INTO things VALUES (2), (3)"))
        result = await transaction.connection.execute(text(sql))
        assert (result.all(), result.rowcount) == (rows, count)


async def test_leases_are_given_up_when_their_connection_is_in_a_wrong_state(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def is_closed(self) -> bool:
            return False

        async def execute(self, *_: Any) -> None:
            raise BROKEN

        async def close(self, **_: Any) -> None:
            raise BROKEN

        def terminate(self) -> None:
            terminated.append(self)

    async def connect(*_: Any, **__: Any) -> Broken:
        return Broken()

    terminated: list[Broken] = []
    monkeypatch.setattr(asyncpg, "connect", connect)
    assert await Leases("postgresql://nobody@127.0.0.1:1/none").leads("relay") is False
    assert len(terminated) == 1

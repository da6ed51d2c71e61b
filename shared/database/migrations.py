"""Running a service's Alembic migrations, one run at a time however many processes start together."""

import asyncio
import time
from pathlib import Path

from alembic import command, context, op
from alembic.config import Config
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.ext.asyncio import create_async_engine

from shared.failpoints import reach

LOCK_TIMEOUT = "5s"
LOCK_KEY = 7_203_001
LOCK_POLL_SECONDS = 0.2


def upgrade(service: str, url: str) -> None:
    """Bring the database of a service to the newest revision. Raises what Alembic or the database raise."""
    command.upgrade(config(service, url), "head")


def config(service: str, url: str) -> Config:
    settings = Config()
    folder = Path(__file__).parents[2] / "services" / service / "migrations"
    settings.set_main_option("script_location", str(folder))
    settings.attributes["url"] = url
    return settings


def run_script(script: str) -> None:
    """Execute a migration's statements one by one, as the driver wants it. Each ends with `;` at a line's end."""
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(statement)
            reach("migration.statement_run")


def make_index(name: str, definition: str) -> None:
    """Make an index while others write: outside a transaction, after the statements before it were committed.

    One that is there already stays (made by hand before, or by a run that died later); one that an interrupted run left
    half-made is made anew. It waits without limit for older transactions, and holds up nobody meanwhile.
    """
    with op.get_context().autocommit_block():
        valid = op.get_bind().scalar(
            text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"), {"name": name}
        )
        if valid:
            return
        op.execute("SET lock_timeout = 0")
        if valid is False:
            op.execute(f"DROP INDEX CONCURRENTLY {name}")
        op.execute(f"CREATE INDEX CONCURRENTLY {name} {definition}")
        op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        reach("migration.statement_run")


def drop_index(name: str) -> None:
    """Drop an index while others write; nothing when it is gone already."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        reach("migration.statement_run")


def run_environment(metadata: MetaData) -> None:
    """What each service's `migrations/env.py` does."""
    asyncio.run(_run(context.config.attributes["url"], metadata))


async def _run(url: str, metadata: MetaData) -> None:
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate, metadata)
            await connection.commit()
    finally:
        await engine.dispose()


def _migrate(connection: Connection, metadata: MetaData) -> None:
    # Asked for again and again: who waits inside a statement holds a snapshot, for which `make_index` would wait.
    while not connection.scalar(text(f"SELECT pg_try_advisory_lock({LOCK_KEY})")):
        connection.commit()
        time.sleep(LOCK_POLL_SECONDS)
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.commit()
    # Each revision in a transaction of its own, so that the locks of one are not held through the next.
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=_ours,
        compare_server_default=False,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _ours(name: str | None, kind: str, _: object) -> bool:
    """Daily partitions come and go; they are not part of the schema that migrations describe."""
    return not (kind == "table" and (name or "").startswith(("outbox_p", "outbox_default")))

"""When each API key was last used at this service: remembered in memory, stored every 30 s, listed for ops."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from sqlalchemy import text

from shared.database.connection import Connection
from shared.database.engine import Database, Transaction
from shared.errors import Transient
from shared.failpoints import reach
from shared.http.auth import DoorFirst, allow
from shared.http.key_store import KeyStore
from shared.http.keys import KeyRecord, KeyState, Role
from shared.http.principal import Principal

STORE_SECONDS = 30.0

# Several processes of a service store here: the latest use wins, and keys in one order so that they never deadlock.
_STORE = text(
    "INSERT INTO key_uses (key_id, last_used_at)"
    " SELECT key_id, clock_timestamp() - make_interval(secs => age)"
    " FROM unnest(CAST(:key_ids AS text[]), CAST(:ages AS float8[])) AS used(key_id, age) ORDER BY key_id"
    " ON CONFLICT (key_id) DO UPDATE SET last_used_at = greatest(key_uses.last_used_at, excluded.last_used_at)"
)


class KeyUses:
    """`note` is called for each request; `run` by the role `api`. Stored times are the database's (real, UTC)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._used: dict[str, float] = {}

    def note(self, key_id: str) -> None:
        self._used[key_id] = time.monotonic()

    async def run(self) -> None:
        """Until cancelled; what is not stored by then is stored at the end."""
        try:
            while True:
                await asyncio.sleep(STORE_SECONDS)
                with contextlib.suppress(Transient):
                    await self.store()
        finally:
            with contextlib.suppress(Transient):
                await self.store()

    async def store(self) -> None:
        """Raises `Transient` when the database is away; what was to be stored is kept for the next time."""
        used, self._used = self._used, {}
        if not used:
            return

        async def write(transaction: Transaction) -> None:
            now = time.monotonic()
            ages = [now - moment for moment in used.values()]
            await transaction.connection.execute(_STORE, {"key_ids": list(used), "ages": ages})
            reach("key_uses.written")

        try:
            await self._database.write(write)
        except Transient:
            self._used = used | self._used
            raise

    async def last(self) -> dict[str, datetime]:
        """The last use of each key at this service, up to now."""
        await self.store()

        async def read(connection: Connection) -> dict[str, datetime]:
            rows = await connection.execute(text("SELECT key_id, last_used_at FROM key_uses"))
            return {row.key_id: row.last_used_at for row in rows}

        return await self._database.read(read)


class KeyView(BaseModel):
    """A key of the file, without its hash. `last_used_at` is that of this service only."""

    key_id: str
    client: str
    name: str
    role: Role
    scope: str | None
    state: KeyState
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyList(BaseModel):
    items: list[KeyView]


def keys_route(keys: KeyStore, uses: KeyUses) -> APIRouter:
    router = APIRouter(route_class=DoorFirst, prefix="/v1/ops", tags=["operations"])

    @router.get("/keys", summary="The API keys and their last use at this service", response_model=KeyList)
    async def listed(principal: Annotated[Principal, Depends(allow(Role.ops))]) -> KeyList:
        used = await uses.last()
        now = datetime.now(UTC)
        return KeyList(items=[_view(record, now, used.get(record.key_id)) for record in keys.records()])

    return router


def _view(record: KeyRecord, now: datetime, used: datetime | None) -> KeyView:
    fields = record.model_dump(exclude={"sha256"})
    return KeyView(**fields, state=record.state(now), last_used_at=used)

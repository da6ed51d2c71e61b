"""Who does what when several processes of a service run: leases on PostgreSQL session advisory locks.

A lease is held by a database session. When its process dies, PostgreSQL sees the closed connection and the lease is
free at once; there is no heartbeat to tune and no table to clean. Members of a role see each other in `pg_locks` and
share the items evenly. A lease prevents needless work; what makes work correct is checked where it is committed
(offsets are compared before they move, see `messaging/consumer.py`).
"""

import asyncio
import logging
import secrets
import zlib
from collections.abc import Iterable

import asyncpg

from shared.database.connection import DRIVER_ERRORS

log = logging.getLogger(__name__)

COMMAND_TIMEOUT_SECONDS = 5.0

_MEMBERS = """
SELECT objid::int8 FROM pg_locks
WHERE locktype = 'advisory' AND classid::int8 = $1 AND objsubid = 2 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY objid::int8
"""


def _key(text: str) -> int:
    """A signed 32-bit key for an advisory lock."""
    value = zlib.crc32(text.encode())
    return value - 2**32 if value >= 2**31 else value


class Leases:
    """The leases of one process. One connection, opened when needed; a lost connection loses every lease."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn.replace("postgresql+asyncpg://", "postgresql://")
        self._connection: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()
        self._held: set[tuple[str, str]] = set()
        self._member = secrets.randbelow(2**31 - 1) + 1
        self._roles: set[str] = set()

    async def share(self, role: str, items: Iterable[str]) -> set[str]:
        """This process's fair part of `items`, held until given up here or the session ends.

        Call it again every second or so: it takes up what others left and gives up what is over the fair part.
        Returns an empty set while the database is away.
        """
        async with self._lock:
            try:
                connection = await self._connect()
                await self._join(connection, role)
                members = [row[0] for row in await connection.fetch(_MEMBERS, _key(f"member:{role}") % 2**32)]
                rank = members.index(self._member) if self._member in members else 0
                ordered = sorted(items)
                fair = {item for index, item in enumerate(ordered) if index % max(len(members), 1) == rank}
                for item in [item for held_role, item in self._held if held_role == role and item not in fair]:
                    await connection.execute("SELECT pg_advisory_unlock($1, $2)", _key(role), _key(item))
                    self._held.discard((role, item))
                wanted = [item for item in sorted(fair) if (role, item) not in self._held]
                if wanted:
                    rows = await connection.fetch(
                        "SELECT item, pg_try_advisory_lock($1, key) AS taken"
                        " FROM unnest($2::text[], $3::int4[]) AS wanted(item, key)",
                        _key(role),
                        wanted,
                        [_key(item) for item in wanted],
                    )
                    self._held |= {(role, row["item"]) for row in rows if row["taken"]}
                return {item for held_role, item in self._held if held_role == role}
            except DRIVER_ERRORS as error:
                log.warning("leases lost", extra={"role": role, "error": type(error).__name__})
                await self._drop()
                return set()

    async def leads(self, role: str) -> bool:
        """Whether this process is the one leader of a role."""
        return bool(await self.share(role, ["leader"]))

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def _connect(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            await self._drop()
            self._connection = await asyncpg.connect(
                self._dsn, timeout=COMMAND_TIMEOUT_SECONDS, command_timeout=COMMAND_TIMEOUT_SECONDS
            )
        return self._connection

    async def _join(self, connection: asyncpg.Connection, role: str) -> None:
        if role not in self._roles:
            await connection.execute("SELECT pg_advisory_lock($1, $2)", _key(f"member:{role}"), self._member)
            self._roles.add(role)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._held.clear()
        self._roles.clear()
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=2)
            except DRIVER_ERRORS:
                connection.terminate()

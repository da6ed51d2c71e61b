"""Writing many rows of one table: what is new in one statement, what changed in another."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Table, bindparam, update

from shared.database.connection import Connection

NEW = "new_"


class RowWriter:
    """Inserts and updates the rows of a table by their key; the columns `kept` are written only when a row is new."""

    def __init__(self, table: Table, key: str, kept: Iterable[str]) -> None:
        self._table = table
        self._key = key
        self._kept = frozenset(kept)
        fixed = {key, *self._kept}
        values: dict[str, Any] = {name: bindparam(NEW + name) for name in table.c.keys() if name not in fixed}
        self._update = update(table).where(table.c[key] == bindparam("key")).values(values)

    async def write(self, connection: Connection, rows: Iterable[tuple[bool, Mapping[str, Any]]]) -> None:
        """Each row with whether it is new. Every row names its key and all columns that are written."""
        given = list(rows)
        fresh = [dict(row) for is_new, row in given if is_new]
        changed = [
            {"key" if name == self._key else NEW + name: value for name, value in row.items() if name not in self._kept}
            for is_new, row in given
            if not is_new
        ]
        if fresh:
            await connection.execute(self._table.insert(), fresh)
        if changed:
            await connection.execute(self._update, changed)

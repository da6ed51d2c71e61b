"""Writing many rows of one table: what is new in one statement, what changed in another, an array a column."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects.postgresql import JSONB

from shared.database.columns import Json
from shared.database.connection import Connection, type_name

Row = Mapping[str, Any]


async def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows, all with the same columns. A column must not be an array itself: `unnest` would open it too."""
    columns = tuple(rows[0])
    await connection.run(_insert(table, columns), *_arrays(table, rows, columns))


async def update_rows(connection: Connection, table: Table, key: str, rows: Sequence[Row]) -> None:
    """Write the columns named in the rows, all the same, where the key is theirs."""
    columns = tuple(rows[0])
    await connection.run(_update(table, key, columns), *_arrays(table, rows, columns))


def _arrays(table: Table, rows: Sequence[Row], columns: Iterable[str]) -> list[list[Any]]:
    return [
        # An array of lists would be taken for one of two dimensions.
        [Json.dumped(row[name]) for row in rows]
        if isinstance(table.c[name].type, JSONB)
        else [row[name] for row in rows]
        for name in columns
    ]


@lru_cache(maxsize=256)
def _insert(table: Table, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM {_given(table, columns)}"  # noqa: S608


@lru_cache(maxsize=256)
def _update(table: Table, key: str, columns: tuple[str, ...]) -> str:
    changes = ", ".join(f"{name} = given.{name}" for name in columns if name != key)
    return f"UPDATE {table.name} SET {changes} FROM {_given(table, columns)} WHERE {table.name}.{key} = given.{key}"  # noqa: S608


def _given(table: Table, columns: tuple[str, ...]) -> str:
    arrays = ", ".join(f"${number}::{type_name(table.c[name])}[]" for number, name in enumerate(columns, 1))
    return f"unnest({arrays}) AS given({', '.join(columns)})"


class RowWriter:
    """Inserts and updates the rows of a table by their key; the columns `kept` are written only when a row is new."""

    def __init__(self, table: Table, key: str, kept: Iterable[str]) -> None:
        self._table = table
        self._key = key
        self._kept = frozenset(kept)

    async def write(self, connection: Connection, rows: Iterable[tuple[bool, Row]]) -> None:
        """Each row with whether it is new. Every row names its key and all columns that are written."""
        given = list(rows)
        fresh = [row for is_new, row in given if is_new]
        changed = [
            {name: value for name, value in row.items() if name not in self._kept}
            for is_new, row in given
            if not is_new
        ]
        if fresh:
            await insert_rows(connection, self._table, fresh)
        if changed:
            await update_rows(connection, self._table, self._key, changed)

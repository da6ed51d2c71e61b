"""Writing many rows at once: new ones by COPY, changes by one UPDATE with an array a column. Written row by row
(`executemany`) the same rows cost the client and PostgreSQL about three times as much."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared.database.connection import Connection

Columns = Mapping[str, str]
"""Each column with its PostgreSQL type; the values of a `jsonb` column are handed over as text."""


async def copy(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Add new rows; a `jsonb` column takes `Json` or objects. Costs PostgreSQL a quarter less than an INSERT."""
    await connection.driver.copy_records_to_table(table, columns=columns, records=rows)


def update(table: str, columns: Columns) -> str:
    """Takes the arrays in the order of the columns; the first is the key."""
    key, *others = columns
    changes = ", ".join(f"{name} = {_value(name, columns[name])}" for name in others)
    return f"UPDATE {table} AS old SET {changes} FROM {_given(columns)} WHERE old.{key} = new.{key}"  # noqa: S608


def by_column(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Rows (at least one) turned into the arrays."""
    return [list(column) for column in zip(*rows, strict=True)]


def _given(columns: Columns) -> str:
    arrays = ", ".join(f"${place}::{_sent(kind)}[]" for place, kind in enumerate(columns.values(), 1))
    return f"unnest({arrays}) AS new({', '.join(columns)})"


def _sent(kind: str) -> str:
    return "text" if kind == "jsonb" else kind


def _value(name: str, kind: str) -> str:
    return f"new.{name}::jsonb" if kind == "jsonb" else f"new.{name}"

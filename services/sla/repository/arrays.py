"""Statements that write many rows at once, each column as one array. Written row by row (`executemany`) the same rows
cost the client three times as much and PostgreSQL half as much again."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Columns = Mapping[str, str]
"""Each column with its PostgreSQL type; the values of a `jsonb` column are handed over as text."""


def insert(table: str, columns: Columns) -> str:
    """Takes the arrays in the order of the columns."""
    values = ", ".join(_value(name, kind) for name, kind in columns.items())
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {_given(columns)}"


def update(table: str, columns: Columns) -> str:
    """As `insert`; the first column is the key."""
    key, *others = columns
    changes = ", ".join(f"{name} = {_value(name, columns[name])}" for name in others)
    return f"UPDATE {table} AS old SET {changes} FROM {_given(columns)} WHERE old.{key} = new.{key}"


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

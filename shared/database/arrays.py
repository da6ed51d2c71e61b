"""Statements that write many rows at once, each column as one array. Written row by row (`executemany`) the same rows
cost the client three times as much and PostgreSQL half as much again."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Columns = Mapping[str, str]
"""Each column with its PostgreSQL type. Values of `jsonb` are handed over as JSON text, of `text[]` as `text_array`."""

_SENT_AS_TEXT = ("jsonb", "text[]")


def insert(table: str, columns: Columns) -> str:
    """Takes the arrays in the order of the columns."""
    values = ", ".join(_value(name, kind) for name, kind in columns.items())
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {_given(columns)}"  # noqa: S608


def update(table: str, columns: Columns, sparse: Collection[str] = ()) -> str:
    """As `insert`; the first column is the key. A None for a `sparse` column leaves it as it is."""
    key, *others = columns
    changes = ", ".join(f"{name} = {_change(name, columns[name], sparse)}" for name in others)
    return f"UPDATE {table} AS old SET {changes} FROM {_given(columns)} WHERE old.{key} = new.{key}"  # noqa: S608


def by_column(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Rows (at least one) turned into the arrays."""
    return [list(column) for column in zip(*rows, strict=True)]


def text_array(values: Iterable[str]) -> str:
    """These texts as PostgreSQL writes an array."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"


def _given(columns: Columns) -> str:
    arrays = ", ".join(f"${place}::{_sent(kind)}[]" for place, kind in enumerate(columns.values(), 1))
    return f"unnest({arrays}) AS new({', '.join(columns)})"


def _sent(kind: str) -> str:
    return "text" if kind in _SENT_AS_TEXT else kind


def _value(name: str, kind: str) -> str:
    return f"new.{name}::{kind}" if kind in _SENT_AS_TEXT else f"new.{name}"


def _change(name: str, kind: str, sparse: Collection[str]) -> str:
    value = _value(name, kind)
    return f"coalesce({value}, old.{name})" if name in sparse else value


def apart(pairs: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The first ones, each once, and the second ones."""
    return list({first for first, _ in pairs}), [second for _, second in pairs]

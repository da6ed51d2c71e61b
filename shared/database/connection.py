"""Statements of SQLAlchemy, run straight on asyncpg: one connection and its results.

SQLAlchemy writes the SQL, once for each statement object (so hot paths keep theirs in a constant); asyncpg carries it
out. SQLAlchemy's own engine in between cost 80 µs a statement and 400 µs a transaction (docs/decisions/0014).
"""

import re
from collections import namedtuple
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

import asyncpg
import orjson
from sqlalchemy import Executable, Table, TextClause, bindparam, select, text
from sqlalchemy.dialects.postgresql import asyncpg as sqlalchemy_asyncpg
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import Select

from shared.database.columns import Json

CONNECT_TIMEOUT_SECONDS = 5.0
# So many statements stay prepared on a connection; a service has fewer.
PREPARED = 256
COMPILED = 1024

_GIVES_ROWS = re.compile(
    r"\s*(SELECT|VALUES|SHOW)\b|.*\bRETURNING\b|\s*WITH\b(?!.*\b(INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b)",
    re.IGNORECASE | re.DOTALL,
)
_DIALECT = sqlalchemy_asyncpg.dialect()  # type: ignore[no-untyped-call]
_JSONB_FORMAT = b"\x01"

# Whatever can come of a connection. Of one whose server dies just then, asyncpg says that it is in a wrong state.
DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class Compiled(NamedTuple):
    """A statement as PostgreSQL takes it. `fixed` are the values that the statement itself brings."""

    sql: str
    names: tuple[str, ...]
    fixed: Mapping[str, Any]
    gives_rows: bool

    def arguments(self, given: Mapping[str, Any]) -> list[Any]:
        """The values of `given` in the order of the SQL. Raises `KeyError` for one that is missing."""
        if not self.fixed:
            return [given[name] for name in self.names]
        return [given[name] if name in given else self.fixed[name] for name in self.names]


class Result:
    """What a statement gave: named tuples, all of them in memory, and how many rows it gave or touched."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        return self._rows

    def first(self) -> Any | None:
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        """Raises `LookupError` when there is not exactly one row."""
        if len(self._rows) != 1:
            raise LookupError(f"one row was expected, and there are {len(self._rows)}")
        return self._rows[0]

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any | None:
        return self._rows[0][0] if self._rows else None

    def scalars(self) -> list[Any]:
        """The first column."""
        return [row[0] for row in self._rows]


class Connection:
    """One connection to PostgreSQL. `jsonb` is read and written as objects; a `Json` is written as it is."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    async def execute(self, statement: Executable, parameters: Parameters = None) -> Result:
        """Run a statement of SQLAlchemy, or `text()` with `:name` parameters; with a list, once for each of them.

        Raises what asyncpg raises.
        """
        if parameters and not isinstance(parameters, Mapping):
            compiled = compile_statement(statement, tuple(parameters[0]))
            await self.driver.executemany(compiled.sql, [compiled.arguments(each) for each in parameters])
            return Result([], len(parameters))
        given: Mapping[str, Any] = parameters if isinstance(parameters, Mapping) else {}
        compiled = compile_statement(statement, tuple(given))
        arguments = compiled.arguments(given)
        if compiled.gives_rows:
            found = await self.driver.fetch(compiled.sql, *arguments)
            return Result(_named(found), len(found))
        return Result([], _touched(await self.driver.execute(compiled.sql, *arguments)))

    async def scalar(self, statement: Executable, parameters: Parameters = None) -> Any:
        """The first column of the first row, or None."""
        return (await self.execute(statement, parameters)).scalar_one_or_none()

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Rows of plain SQL with `$1` parameters, for hot paths."""
        found: list[asyncpg.Record] = await self.driver.fetch(sql, *arguments)
        return found

    async def run(self, sql: str, *arguments: Any) -> int:
        """Run plain SQL with `$1` parameters; how many rows it touched."""
        return _touched(await self.driver.execute(sql, *arguments))

    async def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows by COPY, which costs PostgreSQL a quarter less than an INSERT of arrays."""
        await self.driver.copy_records_to_table(table, columns=columns, records=rows)


class Referenced:
    """The row of a ticket in a table, by `ticket_id` or by `ticket_no`. Its SQL is written once: anew it costs each
    look 170 µs."""

    def __init__(self, table: Table) -> None:
        self._by_id, self._by_number = (
            select(table).where(column == bindparam("reference")) for column in (table.c.ticket_id, table.c.ticket_no)
        )

    async def first(self, connection: Connection, reference: UUID | str) -> Any | None:
        statement = self._by_id if isinstance(reference, UUID) else self._by_number
        return (await connection.execute(statement, {"reference": reference})).first()


def compile_statement(statement: Executable, given: tuple[str, ...] = ()) -> Compiled:
    """The statement as SQL, written once for the same text or the same object. `given` are the names of parameters: an
    `insert()` without values writes these columns."""
    if isinstance(statement, TextClause):
        return _of_text(statement.text)
    known = _written_before.setdefault(statement, {})
    compiled = known.get(given)
    if compiled is None:
        compiled = known[given] = _compile(statement, given)
    return compiled


_written_before: WeakKeyDictionary[Executable, dict[tuple[str, ...], Compiled]] = WeakKeyDictionary()


@lru_cache(maxsize=COMPILED)
def _of_text(sql: str) -> Compiled:
    return _compile(text(sql), ())


def _compile(statement: Any, given: tuple[str, ...]) -> Compiled:
    columns = list(given) if isinstance(statement, UpdateBase) else None
    compiler = statement.compile(dialect=_DIALECT, column_keys=columns)
    awaited = {name: None for name, parameter in compiler.binds.items() if parameter.required}
    state = compiler.construct_expanded_state(awaited)
    fixed = {name: value for name, value in state.parameters.items() if name not in awaited}
    if isinstance(statement, TextClause):
        gives_rows = _GIVES_ROWS.match(state.statement) is not None
    else:
        gives_rows = isinstance(statement, Select) or bool(compiler.effective_returning)
    return Compiled(state.statement, tuple(state.positiontup or ()), fixed, gives_rows)


def _named(found: list[asyncpg.Record]) -> list[Any]:
    if not found:
        return []
    return list(map(_row_of(tuple(found[0].keys()))._make, found))


@lru_cache(maxsize=COMPILED)
def _row_of(columns: tuple[str, ...]) -> Any:
    return namedtuple("Row", columns, rename=True)


def _touched(status: str) -> int:
    """The rows of a command's status, such as `INSERT 0 5`; 0 for a command that counts none."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdecimal() else 0


def driver_url(url: str) -> str:
    """The URL as asyncpg and libpq know it, without SQLAlchemy's name of the driver."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


@asynccontextmanager
async def one_connection(url: str, server_settings: Mapping[str, str] | None = None) -> AsyncIterator[Connection]:
    """A connection of its own, outside any pool and any transaction."""
    driver = await asyncpg.connect(
        driver_url(url), timeout=CONNECT_TIMEOUT_SECONDS, server_settings=dict(server_settings or {})
    )
    try:
        await prepare_connection(driver)
        yield Connection(driver)
    finally:
        await driver.close(timeout=CONNECT_TIMEOUT_SECONDS)


async def prepare_connection(driver: Any) -> None:
    await driver.set_type_codec("jsonb", schema="pg_catalog", format="binary", encoder=_jsonb_out, decoder=_jsonb_in)


def _jsonb_in(stored: bytes) -> Any:
    return orjson.loads(stored[len(_JSONB_FORMAT) :])


def _jsonb_out(value: Any) -> bytes:
    return _JSONB_FORMAT + (value.encode() if isinstance(value, Json) else orjson.dumps(value, default=str))

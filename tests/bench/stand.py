"""Where parts are measured: one running stack, its processes, its databases, and the load generator beside it."""

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from deploy.local.postgres import SUPERUSER
from deploy.local.state import SERVICES
from tests.bench.figures import Findings
from tests.bench.generator import Generator
from tests.bench.machine import Machine
from tests.support.stack import RunningStack, running_stack

PATIENCE_SECONDS = 240.0
# A client may send 3,000 requests a second; the benchmark has one front line and must not meet its limit.
OPEN_LIMIT = {"INTAKE_RATE_LIMIT_PER_SECOND": "1000000"}
LOOK_SECONDS = 0.2
# Of one core: a service that spends less is idling.
BUSY_SHARE = 0.2
# How far the ports of what a stand starts beside the stack are from its first port.
BARE_PORT, NULL_PORT, TEXTBOOK_PORT = 300, 301, 302


@dataclass(frozen=True)
class Options:
    """What was asked for. `size` is that of a part that has one (stored tickets, lines of an import); None: its own
    choice for a short run. `named`: parts were chosen by name, so a long one was meant."""

    broker: str = "embedded"
    rounds: int = 3
    size: int | None = None
    ports: int = 22_000
    named: bool = False


class Stand:
    """One stack under measurement."""

    def __init__(self, stack: RunningStack, generator: Generator, options: Options) -> None:
        self.stack = stack
        self.load = generator
        self.options = options
        self.machine = Machine(stack)
        self.began = time.monotonic()
        self.facts = stack.facts
        self._looking: dict[str, Any] = {}
        self._settled = UUID(int=0)

    def say(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(f"  [{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def port(self, offset: int) -> int:
        return self.options.ports + offset

    def key(self, role: str) -> str:
        """The API key of a role."""
        return str(self.facts["keys"][role])

    def dsn(self, service: str) -> str:
        """The address of a service's database, as its owner."""
        return str(self.facts["databases"][service]).replace("+asyncpg", "")

    def superuser_dsn(self, database: str) -> str:
        """The address of any database of the same server, as the superuser of this data folder."""
        password = json.loads((self.stack.data / "secrets.json").read_text())["postgres_password"]
        port = urlsplit(self.dsn("intake")).port
        return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/{database}"

    @contextlib.asynccontextmanager
    async def database(self, service: str) -> AsyncIterator[Any]:
        """A connection to a service's database, as its owner."""
        connection = await asyncpg.connect(self.dsn(service))
        try:
            yield connection
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def own_database(self, name: str) -> AsyncIterator[str]:
        """An empty database on the same server for a floor; its address. Dropped in the end."""
        connection = await asyncpg.connect(self.superuser_dsn("postgres"))
        try:
            await connection.execute(f"CREATE DATABASE {name}")
            try:
                yield self.superuser_dsn(name)
            finally:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            await connection.close()

    async def waiting(self) -> int:
        """Events not yet published, and tickets that have neither their order nor a place before a person."""
        count = 0
        for service in SERVICES:
            # Kept open: making four connections a look would show in PostgreSQL's CPU.
            if service not in self._looking:
                self._looking[service] = await asyncpg.connect(self.dsn(service))
            count += await self._looking[service].fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL")
        # Of those that came since all were last settled: who has an order stays open, and with 300,000 tickets stored
        # one look at all open ones read 9,400 pages, which looked like growth of the platform.
        return count + int(
            await self._looking["intake"].fetchval(
                "SELECT count(*) FROM tickets WHERE status IN ('registered', 'approved') AND closed_at IS NULL"
                " AND ticket_id > $1",
                self._settled,
            )
        )

    async def close(self) -> None:
        for connection in self._looking.values():
            await connection.close()

    async def drained(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until nothing is on its way: three looks in a row that find nothing waiting, and nobody at work.

        A service that still reads what another published has nothing in an outbox, so its CPU is looked at too.
        Raises `TimeoutError`.
        """
        deadline = time.monotonic() + patience_seconds
        quiet, before = 0, self.machine.cpu()
        while quiet < 3:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{await self.waiting()} tickets and events were still on their way")
            await asyncio.sleep(LOOK_SECONDS)
            waiting, now = await self.waiting(), self.machine.cpu()
            busy = max(now[service] - before[service] for service in SERVICES) > LOOK_SECONDS * BUSY_SHARE
            quiet, before = 0 if waiting or busy else quiet + 1, now
        newest = "SELECT ticket_id FROM tickets ORDER BY ticket_id DESC LIMIT 1"
        self._settled = await self._looking["intake"].fetchval(newest) or self._settled


@dataclass(frozen=True)
class Part:
    """One part of the benchmark. `seconds`: its share of a default run. `by_default`: whether it is in one.

    `spoils`: it leaves the stack full or behind, so what comes after it gets a new one.
    """

    name: str
    title: str
    seconds: int
    measure: Callable[[Stand], Awaitable[Findings]]
    by_default: bool = True
    spoils: bool = False


@contextlib.contextmanager
def new_stack(options: Options, **environment: str) -> Iterator[RunningStack]:
    """A stack of its own, in a folder that is removed afterwards. `environment` is for its services."""
    before = dict(os.environ)
    os.environ.update(OPEN_LIMIT | environment)
    try:
        with tempfile.TemporaryDirectory(prefix="gongdan-bench-") as folder:
            with running_stack(Path(folder) / "data", options.ports, broker=options.broker) as stack:
                yield stack
    finally:
        os.environ.clear()
        os.environ.update(before)

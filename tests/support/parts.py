"""Real parts for integration tests: PostgreSQL with migrated databases, and a broker (embedded, or Apache Kafka)."""

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.local import kafka, postgres
from deploy.local import topics as kafka_topics
from deploy.local.supervisor import PROJECT, Program, Supervisor, port_open
from shared.database.migrations import upgrade
from shared.messaging.broker import BrokerAddress

PACK = "mobile_operator"
PASSWORD = "for-tests-only"
REQUIRE_KAFKA = "GONGDAN_REQUIRE_KAFKA"


_given: deque[int] = deque(maxlen=100)


def free_port() -> int:
    """A free port below those of outgoing connections; its neighbour is free too, for the controller of Kafka. The
    last ones given are not given again: who asked for them may not listen yet."""
    while True:
        port = random.randrange(11_000, 20_000, 2)
        if port in _given:
            continue
        _given.append(port)
        with contextlib.suppress(OSError), socket.socket() as probe, socket.socket() as neighbour:
            probe.bind(("127.0.0.1", port))
            neighbour.bind(("127.0.0.1", port + 1))
            return port


@asynccontextmanager
async def beside(works: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> AsyncIterator[None]:
    """Run these while the block runs. Its end cancels them as a crash would; what failed meanwhile is raised."""
    tasks = [asyncio.create_task(work()) for work in works]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Databases:
    """One PostgreSQL server. `fresh` gives a new database of a service, copied from one that was migrated."""

    server: postgres.Postgres
    templates: set[str] = field(default_factory=set)
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def fresh(self, service: str) -> str:
        """The SQLAlchemy URL of a new database of this service."""
        template = f"template_{service}"
        if template not in self.templates:
            await self._create(template)
            await asyncio.to_thread(upgrade, service, self._url(template))
            self.templates.add(template)
        return await self.copy(service, self._url(template))

    async def copy(self, service: str, url: str) -> str:
        """The URL of a copy of a database of this service that nobody uses now."""
        name = f"{service}_{next(self.numbers)}"
        await self._create(name, url.rpartition("/")[2])
        return self._url(name)

    async def empty(self) -> str:
        """The SQLAlchemy URL of a new database in which nothing is."""
        name = f"empty_{next(self.numbers)}"
        await self._create(name)
        return self._url(name)

    async def drop(self, url: str) -> None:
        """Remove a database that nobody uses any more: hundreds of files the fewer to write at the end."""
        await self._execute(f"DROP DATABASE {url.rpartition('/')[2]}")

    async def _create(self, name: str, template: str = "template1") -> None:
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.server.dsn("gongdan", PASSWORD, "postgres"))
        await connection.execute(statement)
        await connection.close()

    def _url(self, name: str) -> str:
        return self.server.dsn("gongdan", PASSWORD, name, "postgresql+asyncpg")


@asynccontextmanager
async def running_databases(folder: Path) -> AsyncIterator[Databases]:
    supervisor = Supervisor(folder, lambda line: None)
    server = await asyncio.to_thread(postgres.prepare, folder / "postgres", free_port(), PASSWORD)
    await asyncio.to_thread(server.initialise)
    await supervisor.start(server.program())
    try:
        yield Databases(server)
    finally:
        await supervisor.stop()


@dataclass
class Broker:
    """A broker that tests may stop and start."""

    kind: str
    address: BrokerAddress
    supervisor: Supervisor
    program: Program

    @property
    def bootstrap(self) -> str:
        return self.address.bootstrap_servers

    async def stop(self) -> None:
        await self.supervisor.stop(("kafka",))

    async def start(self) -> None:
        await self.supervisor.start(self.program)


@asynccontextmanager
async def running_broker(kind: str, folder: Path, *, topics: bool = True) -> AsyncIterator[Broker]:
    """Start a broker with every topic of the first pack; Apache Kafka also without them."""
    supervisor = Supervisor(folder, lambda line: None)
    port = free_port()
    if kind == "embedded":
        program = Program(
            "kafka",
            (sys.executable, "-m", "deploy.local.broker", "--port", str(port), "--topics-from-pack", PACK),
            environment=dict(os.environ),
            ready=lambda: port_open("127.0.0.1", port),
            stop_seconds=2.0,
        )
        await supervisor.start(program)
    else:
        program = await asyncio.to_thread(kafka.prepare, folder / "kafka", port, PROJECT / ".cache")
        await supervisor.start(program)
        if topics:
            await kafka_topics.prepare(BrokerAddress(f"127.0.0.1:{port}"), PACK, 1, None)
    try:
        yield Broker(kind, BrokerAddress(f"127.0.0.1:{port}"), supervisor, program)
    finally:
        await supervisor.stop()


def must_have_kafka() -> None:
    """Skip where Java or Maven is missing, unless the environment forbids it (as CI does)."""
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if missing and not os.environ.get(REQUIRE_KAFKA):
        pytest.skip(f"real Apache Kafka needs {' and '.join(missing)}")

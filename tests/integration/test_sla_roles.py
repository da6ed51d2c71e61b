"""sla's timed work in a process that reads nothing itself: it still knows what the reading processes left unread."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from pydantic import SecretStr

from services.sla import jobs as timed
from services.sla.jobs import Jobs
from services.sla.settings import Settings
from shared.contracts.topics import INTAKE
from shared.database.leases import Leases
from shared.messaging import inbox
from shared.messaging.inbox import Position
from shared.messaging.log_watch import LogWatch
from shared.operations import figures
from tests.support.parts import Broker, Databases
from tests.support.sla import HOUR, MINUTE, Bench, registered, running_bench

WAIT_SECONDS = 2.0


@dataclass
class Process:
    """The role `jobs` alone. `end` is behind the last record of the one partition that others read."""

    bench: Bench
    jobs: Jobs
    watch: LogWatch
    end: int

    async def read_up_to(self, offset: int) -> None:
        """What a process with the role `consumer` stores."""
        async with self.bench.database.transaction() as transaction:
            position = Position(offset, await self.watch.known(), None)
            await inbox.set_position(transaction.connection, INTAKE, 0, position)


@pytest_asyncio.fixture
async def process(databases: Databases, embedded: Broker, tmp_path: Path) -> AsyncIterator[Process]:
    url = await databases.fresh("sla")
    settings = Settings(
        database_url=SecretStr(url),
        kafka_bootstrap_servers=embedded.bootstrap,
        keys_file=tmp_path / "keys.json",
        catch_up_seconds=30.0,
    )
    async with AIOKafkaProducer(bootstrap_servers=embedded.bootstrap, acks="all") as producer:
        sent = await producer.send_and_wait(INTAKE, b"another record", partition=0)
    leases, watch = Leases(url), LogWatch(embedded.address)
    watching = asyncio.create_task(watch.run())
    async with running_bench(databases, url) as bench:
        await watch.known()
        yield Process(bench, Jobs(bench.desk, bench.database, leases, watch, settings), watch, sent.offset + 1)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await leases.close()


async def test_a_quiet_incident_stays_open_while_another_process_has_events_to_read(process: Process) -> None:
    bench = process.bench
    start = await bench.now() - 3 * HOUR
    await bench.apply(*(registered(start + number * MINUTE) for number in range(10)))
    await process.read_up_to(process.end - 1)
    await process.jobs.close_incidents()
    assert await bench.incidents() == [("open", 10)]
    await process.read_up_to(process.end)
    await process.jobs.close_incidents()
    assert await bench.incidents() == [("closed", 10)]


async def test_the_sweep_lets_another_process_read_first(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "REPLAY_SECONDS", 0.0)
    bench = process.bench
    fired = "SELECT count(*) FROM clocks WHERE breached_at IS NOT NULL"
    await bench.apply(registered(await bench.now() - timedelta(days=30)))
    await process.read_up_to(process.end - 1)
    sweeping = asyncio.create_task(process.jobs.sweep())
    await asyncio.sleep(WAIT_SECONDS)
    assert await bench.one(fired) == 0
    await process.read_up_to(process.end)
    for _ in range(200):
        if await bench.one(fired):
            break
        await asyncio.sleep(0.05)
    assert await bench.one(fired) > 0
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)


async def test_what_is_unread_is_not_known_without_the_broker_or_in_another_log(process: Process) -> None:
    database = process.bench.database
    await process.read_up_to(process.end)
    assert await figures.unread(database, process.watch) == 0
    assert await figures.unread(database, LogWatch(process.watch._broker)) is None
    async with database.transaction() as transaction:
        await inbox.set_position(transaction.connection, INTAKE, 0, Position(process.end, "another log", None))
    assert await figures.unread(database, process.watch) is None

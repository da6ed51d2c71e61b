"""How far the services are behind with reading what they published to each other.

The order of a ticket may be out while sla has not begun with it: a rate at which only the orders keep up is none that
lasts. The curve has the form of `backlog`: seconds, events on the topics, events applied by those who read them.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.local.state import SERVICES
from tests.bench.backlog import Sample
from tests.bench.stand import Stand

EVERY_SECONDS = 0.5


@dataclass
class Readers:
    """Looks every half second, with connections of its own that stay open."""

    client: AIOKafkaConsumer
    databases: list[asyncpg.Connection]
    began: float = field(default_factory=time.perf_counter)
    curve: list[Sample] = field(default_factory=list)

    async def look(self) -> None:
        stands = [
            (TopicPartition(topic, partition), offset)
            for database in self.databases
            for topic, partition, offset in await database.fetch(
                "SELECT topic, partition, next_offset FROM consumer_offsets"
            )
        ]
        ends = await self.client.end_offsets({partition for partition, _ in stands})
        there, applied = sum(ends[partition] for partition, _ in stands), sum(offset for _, offset in stands)
        self.curve.append((time.perf_counter() - self.began, there, applied))

    @property
    def at_rest(self) -> float:
        """Seconds from the begin until everything was read, or until the last look."""
        return next((at for at, there, applied in self.curve[::-1] if there != applied), 0.0) + EVERY_SECONDS

    async def keep_looking(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(EVERY_SECONDS)


@contextlib.asynccontextmanager
async def readers(stand: Stand) -> AsyncIterator[Readers]:
    """Watched while the block runs; an event is counted once for each service that reads it."""
    client = AIOKafkaConsumer(bootstrap_servers=stand.stack.bootstrap, enable_auto_commit=False)
    await client.start()
    databases = [await asyncpg.connect(stand.dsn(service)) for service in SERVICES]
    seen = Readers(client, databases)
    task = asyncio.create_task(seen.keep_looking())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for database in databases:
            await database.close()
        await client.stop()

"""The world behind the platform, in the load generator's process: who waits for orders on the branches' topics."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts.topics import branch_topic
from tests.bench.figures import percentiles_ms

SAMPLE_SECONDS = 0.5
PATIENCE_SECONDS = 180.0
FETCH_WAIT_MS = 20
TICKET_ID = b'"ticket_id":"'
DISPATCHED = b"order.dispatched"


def ticket_id(answer: bytes) -> str:
    """The ticket's id in an answer to a registration."""
    start = answer.index(TICKET_ID) + len(TICKET_ID)
    return answer[start : start + 36].decode()


def type_of(record: Any) -> bytes:
    """The CloudEvents type of a record; empty when it has none."""
    return next((value for name, value in record.headers if name == "ce_type"), b"")


@contextlib.asynccontextmanager
async def reading(
    bootstrap: str, partitions: Iterable[TopicPartition], take: Callable[[Any], None]
) -> AsyncIterator[None]:
    """Give every record that comes from now on to `take`, as soon as it is there."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="latest",
        enable_auto_commit=False,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    await consumer.start()
    wanted = list(partitions)
    consumer.assign(wanted)
    await consumer.seek_to_end(*wanted)
    for partition in wanted:
        await consumer.position(partition)

    async def read() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    take(record)

    task = asyncio.create_task(read())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.stop()


class Arrivals:
    """Which accepted tickets have their order on a branch's topic, how long that took, and the curve of both."""

    def __init__(self) -> None:
        self._began = 0.0
        self._due: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._curve: list[tuple[float, int, int]] = []

    def accepted(self, answer: bytes, due: float) -> None:
        self._due[ticket_id(answer)] = due

    def arrived(self, record: Any) -> None:
        if type_of(record) == DISPATCHED:
            self._seen.setdefault(record.key.decode(), time.perf_counter())

    async def sample(self) -> None:
        """Note (seconds from now, accepted, seen) again and again."""
        self._began = time.perf_counter()
        while True:
            self._curve.append((time.perf_counter() - self._began, len(self._due), len(self._seen)))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def all_seen(self) -> None:
        """Wait until every accepted ticket has its order. Raises `TimeoutError`."""
        deadline = time.perf_counter() + PATIENCE_SECONDS
        while missing := self._due.keys() - self._seen.keys():
            if time.perf_counter() > deadline:
                raise TimeoutError(
                    f"{len(missing)} of {len(self._due)} orders did not come in {PATIENCE_SECONDS:.0f} s"
                )
            await asyncio.sleep(0.05)

    def shown(self) -> dict[str, Any]:
        waits = [self._seen[ticket] - due for ticket, due in self._due.items()]
        last = max((self._seen[ticket] for ticket in self._due), default=self._began)
        return {
            "order_ms": percentiles_ms(waits),
            "last_order_seconds": last - self._began,
            "curve": [(round(at, 2), accepted, seen) for at, accepted, seen in self._curve],
        }


@contextlib.asynccontextmanager
async def arrivals(bootstrap: str, branches: Iterable[str]) -> AsyncIterator[Arrivals]:
    """Look at the topics of these branches from now on."""
    seen = Arrivals()
    partitions = [TopicPartition(branch_topic(branch), 0) for branch in branches]
    async with reading(bootstrap, partitions, seen.arrived):
        sampling = asyncio.create_task(seen.sample())
        try:
            yield seen
        finally:
            sampling.cancel()

"""Tickets carried to their end, in the load generator's process: simulated branches that accept and answer over Kafka,
and callback staff that records the result over HTTP as soon as an order is answered."""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import urlsplit

from aiokafka import AIOKafkaProducer, TopicPartition

from deploy.local.branch_consumer import command
from shared.contracts.topics import BRANCH_REPLIES, DISPATCH, branch_topic, topic_file
from tests.bench.figures import percentiles_ms
from tests.bench.outside import DISPATCHED, PATIENCE_SECONDS, reading, ticket_id, type_of
from tests.bench.wire import Wire, connect

CALLERS = 16
REPLY = {
    "process": "已上门检测并调整天线",
    "content": "信号已恢复正常",
    "satisfaction": "not_called",
    "replier": "王工",
    "replied_at": "2026-11-22T08:00:00+00:00",
}
CALL = b"POST /v1/orders/%b/callback HTTP/1.1\r\n%b\r\nIdempotency-Key: call-%b\r\nContent-Length: %d\r\n\r\n%b"
SATISFIED = b'{"outcome":"satisfied"}'


class Town:
    """The branches and the callback staff. A ticket's life is over when its `ticket.closed` was read."""

    def __init__(self, producer: AIOKafkaProducer, wires: list[Wire], host: str, key: str) -> None:
        self._producer = producer
        self._orders: asyncio.Queue[Any] = asyncio.Queue()
        self._free, self._calls = wires, deque[bytes]()
        self._head = f"Host: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json".encode()
        self._began = time.perf_counter()
        self._due: dict[str, float] = {}
        self._closed: dict[str, float] = {}
        self._handled: set[bytes] = set()
        self._refused: Counter[int] = Counter()

    def accepted(self, answer: bytes, due: float) -> None:
        self._due[ticket_id(answer)] = due

    def read(self, record: Any) -> None:
        """A record of a branch's topic or of dispatch's own."""
        kind = type_of(record)
        if record.topic != DISPATCH:
            if kind == DISPATCHED and record.key not in self._handled:
                self._handled.add(record.key)
                self._orders.put_nowait(record)
        elif kind == b"order.replied":
            self._calls.append(record.key)
            self._call()
        elif kind == b"ticket.closed":
            self._closed.setdefault(record.key.decode(), time.perf_counter())

    async def work(self) -> None:
        """Accept and answer every order, in the order in which they came."""
        while True:
            record = await self._orders.get()
            branch = record.topic.removeprefix(f"{DISPATCH}.")
            order = {name: value.decode() for name, value in record.headers}
            for kind, data in (("order.accept", {}), ("order.reply", {"reply": REPLY})):
                await self._producer.send(BRANCH_REPLIES, **command(kind, order, branch, data, None))

    def _call(self) -> None:
        while self._free and self._calls:
            wire, ticket = self._free.pop(), self._calls.popleft()
            wire.answered = lambda status, body, wire=wire: self._called(wire, status)  # type: ignore[misc]
            wire.send(CALL % (ticket, self._head, ticket, len(SATISFIED), SATISFIED))

    def _called(self, wire: Wire, status: int) -> None:
        if status >= 300:
            self._refused[status] += 1
        self._free.append(wire)
        self._call()

    async def all_closed(self) -> None:
        """Wait until every accepted ticket is closed. Raises `TimeoutError`."""
        deadline = time.perf_counter() + PATIENCE_SECONDS
        while missing := self._due.keys() - self._closed.keys():
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{len(missing)} of {len(self._due)} tickets were not closed: {self._refused}")
            await asyncio.sleep(0.05)

    def shown(self) -> dict[str, Any]:
        last = max((self._closed[ticket] for ticket in self._due), default=self._began)
        return {
            "life_ms": percentiles_ms(self._closed[ticket] - due for ticket, due in self._due.items()),
            "last_closed_seconds": last - min(self._due.values(), default=self._began),
            "refused_callbacks": dict(self._refused),
        }


@contextlib.asynccontextmanager
async def lives(bootstrap: str, branches: Iterable[str], dispatch_url: str, callback_key: str) -> AsyncIterator[Town]:
    """Everybody at work from now on."""
    partitions = [TopicPartition(branch_topic(branch), 0) for branch in branches]
    count = next(topic.partitions for topic in topic_file().topics if topic.name == DISPATCH)
    partitions += [TopicPartition(DISPATCH, number) for number in range(count)]
    wires = await connect(dispatch_url, CALLERS)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    async with producer:
        town = Town(producer, list(wires), urlsplit(dispatch_url).netloc, callback_key)
        async with reading(bootstrap, partitions, town.read):
            working = asyncio.create_task(town.work())
            try:
                yield town
            finally:
                working.cancel()
                for wire in wires:
                    wire.close()

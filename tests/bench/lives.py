"""Tickets carried to their end, in the load generator's process: simulated branches that accept and answer over Kafka,
and callback staff that records the result over HTTP as soon as an order is answered."""

import asyncio
import contextlib
import time
from collections import Counter
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

    def __init__(self, producer: AIOKafkaProducer, dispatch_url: str, key: str) -> None:
        self._producer = producer
        self._orders: asyncio.Queue[Any] = asyncio.Queue()
        self._calls: asyncio.Queue[bytes] = asyncio.Queue()
        self._url, host = dispatch_url, urlsplit(dispatch_url).netloc
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
            self._calls.put_nowait(record.key)
        elif kind == b"ticket.closed":
            self._closed.setdefault(record.key.decode(), time.perf_counter())

    async def answer_orders(self) -> None:
        """Accept and answer every order, in the order in which they came."""
        while True:
            record = await self._orders.get()
            branch = record.topic.removeprefix(f"{DISPATCH}.")
            order = {name: value.decode() for name, value in record.headers}
            for kind, data in (("order.accept", {}), ("order.reply", {"reply": REPLY})):
                await self._producer.send(BRANCH_REPLIES, **command(kind, order, branch, data, None))

    async def call_back(self) -> None:
        """Record that the customer is satisfied, one order after another, over a connection that is made anew when the
        server has closed it for being idle."""
        wire: Wire | None = None
        while True:
            ticket = await self._calls.get()
            status = 0
            while not status:
                if wire is None or not wire.is_open:
                    (wire,) = await connect(self._url, 1)
                status = await self._called(wire, ticket)
            if status >= 300:
                self._refused[status] += 1

    async def _called(self, wire: Wire, ticket: bytes) -> int:
        """The status of the answer, 0 when the connection was closed; its key makes a repetition harmless."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answered(status: int, body: bytes = b"") -> None:
            if not answer.done():
                answer.set_result(status)

        wire.answered, wire.lost = answered, lambda: answered(0)
        wire.send(CALL % (ticket, self._head, ticket, len(SATISFIED), SATISFIED))
        return await answer

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
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5) as producer:
        town = Town(producer, dispatch_url, callback_key)
        async with reading(bootstrap, partitions, town.read):
            working = [asyncio.create_task(town.answer_orders())]
            working += [asyncio.create_task(town.call_back()) for _ in range(CALLERS)]
            try:
                yield town
            finally:
                for task in working:
                    task.cancel()

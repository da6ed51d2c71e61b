"""The load generator: a process of its own on uvloop, told by one line of JSON what to do, answering with another.

    python -m tests.bench.load      # reads jobs from standard input; `tests.bench.generator` is its other end

Latencies are real seconds from the moment a request was due (paced) or sent (closed loop) to the end of its answer.
Every result says which share of a core this process itself used.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

from tests.bench import bulk, lives, outside, physical
from tests.bench.bodies import Bodies, Posts
from tests.bench.figures import percentiles_ms
from tests.bench.wire import Wire, connect

TICK_SECONDS = 0.001
CONNECTIONS = 32
# A paced run uses its connections in turn, each every two seconds: enough of them for answers that take as long, and
# none idle so long that the server closes it.
PACED_CONNECTIONS, TURN_SECONDS = (4, 64), 2.0


@dataclass
class Tally:
    """What a run of requests saw. `taken` is called with each 2xx answer and the moment it was due or sent."""

    taken: Callable[[bytes, float], None] = lambda body, due: None
    latencies: list[float] = field(default_factory=list)
    failures: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    def note(self, status: int, body: bytes, due: float) -> None:
        self.latencies.append(time.perf_counter() - due)
        if 200 <= status < 300:
            self.taken(body, due)
        else:
            self.failures[status] += 1

    def shown(self) -> dict[str, Any]:
        done = len(self.latencies) - self.failures.total()
        return {
            "done": done,
            "failures": dict(self.failures),
            "seconds": self.seconds,
            "rate": done / self.seconds if self.seconds else 0.0,
            "ms": percentiles_ms(self.latencies),
        }


def posts(url: str, key: str | None, bodies: Bodies) -> Posts:
    parts = urlsplit(url)
    return Posts(parts.path, parts.netloc, key, bodies)


async def closed_loop(url: str, make: Callable[[], bytes], connections: int, seconds: float, tally: Tally) -> None:
    """Each connection sends its next request as soon as the answer to the last is there."""
    wires = await connect(url, connections)
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    began = time.perf_counter()
    until, open_ones = began + seconds, connections

    def start(wire: Wire) -> None:
        sent = 0.0

        def answered(status: int, body: bytes) -> None:
            nonlocal sent, open_ones
            tally.note(status, body, sent)
            sent = time.perf_counter()
            if sent < until:
                wire.send(make())
                return
            open_ones -= 1
            if not open_ones and not over.done():
                over.set_result(None)

        wire.answered = answered
        wire.lost = lambda: _fail(over)
        sent = time.perf_counter()
        wire.send(make())

    for wire in wires:
        start(wire)
    await over
    tally.seconds = time.perf_counter() - began
    for wire in wires:
        wire.close()


async def paced(url: str, make: Callable[[], bytes], rate: float, seconds: float, tally: Tally) -> None:
    """A steady rate; a request that waits for a free connection is charged for the wait."""
    fewest, most = PACED_CONNECTIONS
    wires = await connect(url, min(max(fewest, int(rate * TURN_SECONDS)), most))
    free, due_ones = deque(wires), deque[float]()
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    count = int(rate * seconds)
    began = time.perf_counter()

    def send() -> None:
        while free and due_ones:
            wire, due = free.popleft(), due_ones.popleft()
            wire.answered = lambda status, body, wire=wire, due=due: answered(wire, due, status, body)  # type: ignore[misc]
            wire.send(make())

    def answered(wire: Wire, due: float, status: int, body: bytes) -> None:
        tally.note(status, body, due)
        free.append(wire)
        if len(tally.latencies) == count and not over.done():
            over.set_result(None)
        send()

    for wire in wires:
        wire.lost = lambda: _fail(over)
    number = 0
    while number < count and not over.done():
        now = time.perf_counter()
        while number < count and (due := began + number / rate) <= now:
            due_ones.append(due)
            number += 1
        send()
        await asyncio.sleep(max(TICK_SECONDS, began + number / rate - time.perf_counter()))
    await over
    tally.seconds = time.perf_counter() - began
    for wire in wires:
        wire.close()


def _fail(over: "asyncio.Future[None]") -> None:
    if not over.done():
        over.set_exception(ConnectionError("the server closed a connection in the middle of a run"))


class Jobs:
    """What this process can do. Every method that is not private is a job; its arguments come from the line."""

    def __init__(self) -> None:
        self._bodies = Bodies()

    async def closed(self, url: str, connections: int, seconds: float, key: str | None = None) -> dict[str, Any]:
        """Complaints as fast as the server takes them."""
        tally = Tally()
        await closed_loop(url, posts(url, key, self._bodies).next, connections, seconds, tally)
        return tally.shown()

    async def paced(self, url: str, rate: float, seconds: float, key: str | None = None) -> dict[str, Any]:
        """Complaints at a steady rate."""
        tally = Tally()
        await paced(url, posts(url, key, self._bodies).next, rate, seconds, tally)
        return tally.shown()

    async def pipeline(
        self, url: str, key: str, bootstrap: str, branches: list[str], seconds: float, rate: float | None = None
    ) -> dict[str, Any]:
        """Complaints, at a rate or (without one) over 32 connections in a closed loop, until each has its order on a
        branch's topic; how long that took, and the backlog every half second."""
        tally = Tally()
        async with outside.arrivals(bootstrap, branches) as arrivals:
            tally.taken = arrivals.accepted
            make = posts(url, key, self._bodies).next
            if rate is None:
                await closed_loop(url, make, CONNECTIONS, seconds, tally)
            else:
                await paced(url, make, rate, seconds, tally)
            posted = tally.seconds
            await arrivals.all_seen()
        return tally.shown() | {"posted_seconds": posted} | arrivals.shown()

    async def life(self, url: str, key: str, seconds: float, connections: int, **about: Any) -> dict[str, Any]:
        """Complaints in a closed loop, each carried to its end; `about` is what `lives.lives` wants."""
        tally = Tally()
        async with lives.lives(**about) as town:
            tally.taken = town.accepted
            await closed_loop(url, posts(url, key, self._bodies).next, connections, seconds, tally)
            await town.all_closed()
        return tally.shown() | town.shown()

    async def bulk(self, url: str, key: str, lines: int) -> dict[str, Any]:
        """One import of so many complaints."""
        return await bulk.send(url, key, (self._bodies.next()[1] for _ in range(lines)), lines)

    async def empty(self, url: str, connections: int, seconds: float) -> dict[str, Any]:
        """A GET with nothing in it."""
        parts = urlsplit(url)
        request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
        tally = Tally()
        await closed_loop(url, lambda: request, connections, seconds, tally)
        return tally.shown()

    async def commits(self, dsn: str, writers: int, rows: int, seconds: float) -> dict[str, Any]:
        """What PostgreSQL itself can commit."""
        return await physical.commits(dsn, writers, rows, seconds)

    async def produce(self, bootstrap: str, topic: str, seconds: float) -> dict[str, Any]:
        """What the broker itself can take."""
        return await physical.produce(bootstrap, topic, seconds)


async def serve() -> None:
    jobs, loop = Jobs(), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order: dict[str, Any] = json.loads(line)
        job: Callable[..., Awaitable[dict[str, Any]]] = getattr(jobs, order.pop("job"))
        spent, began = time.process_time(), time.perf_counter()
        try:
            result = await job(**order)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        result["cpu_seconds"] = time.process_time() - spent
        result["core_share"] = result["cpu_seconds"] / (time.perf_counter() - began)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    uvloop.run(serve())

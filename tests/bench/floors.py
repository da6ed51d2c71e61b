"""The floors as servers beside the stack: the bare endpoint and the textbook one, each in a process of its own."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tests.bench.figures import milliseconds_a_ticket
from tests.bench.generator import beside
from tests.bench.machine import POSTGRES
from tests.bench.stand import BARE_PORT, TEXTBOOK_PORT, Stand

BARE, TEXTBOOK = "bare", "textbook"
CONNECTIONS = 32


@dataclass
class Rounds:
    """What one server did with one number of connections, round by round. Latencies in milliseconds; `generator` is
    the share of a core that the load generator used."""

    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)
    generator: list[float] = field(default_factory=list)
    failures: int = 0

    def add(self, done: dict[str, Any], cpu: dict[str, float]) -> None:
        self.rate.append(done["rate"])
        self.p50.append(done["ms"]["p50"])
        self.p99.append(done["ms"]["p99"])
        self.cpu.append(cpu)
        self.generator.append(done["core_share"])
        self.failures += sum(done["failures"].values())


class Floors:
    """The two servers, ready. A `round` measures one of them."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self.urls = {
            BARE: f"http://127.0.0.1:{stand.port(BARE_PORT)}/v1/tickets",
            TEXTBOOK: f"http://127.0.0.1:{stand.port(TEXTBOOK_PORT)}/v1/tickets",
        }

    async def round(self, server: str, into: Rounds, seconds: float, connections: int = CONNECTIONS) -> None:
        """Complaints in a closed loop, noted with the CPU milliseconds a ticket of the server and of PostgreSQL."""
        before = self._stand.machine.cpu()
        done = await self._stand.load.run("closed", url=self.urls[server], connections=connections, seconds=seconds)
        after = self._stand.machine.cpu()
        into.add(done, milliseconds_a_ticket(before, after, done["done"], (server, POSTGRES)))


@contextlib.asynccontextmanager
async def floors(stand: Stand) -> AsyncIterator[Floors]:
    """Start both, warm; the textbook one on a database of its own on the stack's server."""
    known = Floors(stand)
    async with (
        stand.own_database("bench_textbook") as dsn,
        beside("tests.bench.bare", known.urls[BARE], str(stand.port(BARE_PORT))) as bare,
        beside("tests.bench.textbook", known.urls[TEXTBOOK], str(stand.port(TEXTBOOK_PORT)), given=dsn) as textbook,
    ):
        stand.machine.watch(BARE, bare)
        stand.machine.watch(TEXTBOOK, textbook)
        for server in (BARE, TEXTBOOK):
            await known.round(server, Rounds(), 1.0)
        yield known

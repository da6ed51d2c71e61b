"""Memory of the services looked at again and again while something else is measured."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.bench.machine import Machine

EVERY_SECONDS = 0.25


class Memory:
    """Resident mebibytes of each service: at the beginning, and the most that was seen."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.first = machine.memory()
        self.most = dict(self.first)

    def look(self) -> None:
        for name, size in self._machine.memory().items():
            self.most[name] = max(self.most[name], size)


@contextlib.asynccontextmanager
async def memory_of(machine: Machine) -> AsyncIterator[Memory]:
    seen = Memory(machine)

    async def watch() -> None:
        while True:
            seen.look()
            await asyncio.sleep(EVERY_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        seen.look()

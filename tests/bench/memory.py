"""Memory of each service idle and under load, and how long each takes from its exec to being ready."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.state import SERVICES
from tests.bench.figures import Figure, Findings
from tests.bench.sampling import memory_of
from tests.bench.stand import Part, Stand

LOAD_SECONDS = 6.0
CONNECTIONS = 32
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.01
STARTED_FIELD = 19
"""Of /proc/<pid>/stat after the name in brackets: when the process began, in clock ticks since boot."""


async def measure(stand: Stand) -> Findings:
    starts: dict[str, list[float]] = {service: [] for service in SERVICES}
    # Fewer rounds than elsewhere tell enough: the spread of a start is small, and each takes some seconds.
    for number in range(1, max(stand.options.rounds // 2, 1) + 1):
        for service in SERVICES:
            starts[service].append(await restarted(stand, service))
        stand.say(f"round {number}: ready after {', '.join(f'{each[-1]:.2f} s' for each in starts.values())}")
    await stand.drained()
    idle = stand.machine.memory()
    async with memory_of(stand.machine) as memory:
        url = f"{stand.stack.url('intake')}/v1/tickets"
        await stand.load.run(
            "closed", url=url, key=stand.key("front_line"), connections=CONNECTIONS, seconds=LOAD_SECONDS
        )
        await stand.drained()
    figures = [Figure(f"Start of {name}, exec to ready", "s", starts[name]) for name in SERVICES]
    for name in SERVICES:
        figures += [
            Figure(f"Memory of {name}, idle", "MiB", [idle[name]]),
            Figure(f"Memory of {name}, under load, most", "MiB", [memory.most[name]]),
        ]
    notes = [
        "A start is that of one service on an existing database while the others run; idle is just after it.",
        f"Load: {CONNECTIONS} connections for {LOAD_SECONDS:.0f} s in a closed loop, and until all orders are out.",
    ]
    return Findings(figures, notes=notes)


async def restarted(stand: Stand, service: str) -> float:
    """End a service, let the runner start it again; seconds from the new process's exec until it says it is ready."""
    old = stand.stack.pid(service)
    os.kill(old, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (pid := stand.stack.pid(service)) == old or not await _ready(stand.stack.url(service)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{service} was not ready again in {PATIENCE_SECONDS:.0f} s")
        await asyncio.sleep(LOOK_SECONDS)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - _began(pid)


def _began(pid: int) -> float:
    """When the process began, in seconds since boot (to a hundredth)."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[STARTED_FIELD]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


async def _ready(url: str) -> bool:
    parts = urlsplit(url)
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"GET /health/ready HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        status = await reader.readline()
        writer.close()
        return b" 200 " in status
    return False


PART = Part("memory", "Memory and start", 20, measure)

"""More processes of a service beside the one that the stack runs."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.bench.stand import Stand
from tests.support.stack import PROJECT

PORT = 310
READY_SECONDS = 60.0


@contextlib.asynccontextmanager
async def another(stand: Stand, service: str, number: int) -> AsyncIterator[int]:
    """The same command and environment as the running one, with another port; its pid. Ended by SIGTERM.

    `number` tells several apart, from 1. Raises `TimeoutError` when it does not get ready.
    """
    variables = (Path("/proc") / str(stand.stack.pid(service)) / "environ").read_bytes().split(b"\0")
    environment = dict(variable.decode().split("=", 1) for variable in variables if b"=" in variable)
    port = stand.port(PORT + number)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{service}"),
        cwd=PROJECT,
        env={**environment, f"{service.upper()}_HTTP_PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _live(f"http://127.0.0.1:{port}/health/live")
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _live(url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(url)).status_code == httpx.codes.OK:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} does not answer")
            await asyncio.sleep(0.2)

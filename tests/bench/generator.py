"""The load generator as the benchmark sees it: a process of its own that is given one job after another.

A job and its result are one line of JSON each, over pipes; addresses with passwords never stand on a command line.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

from tests.support.stack import PROJECT

LINE_LIMIT_BYTES = 64 * 1024 * 1024
STOP_SECONDS = 2.0


class GeneratorFailed(Exception):
    """The job could not be done; the text is the generator's own."""


class Generator:
    """A running load generator. `jobs` is what it was given and how busy it was, for the record."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.jobs: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    async def run(self, job: str, **arguments: Any) -> dict[str, Any]:
        """Do one job (a method of `load.Jobs`) and wait for its result. Raises `GeneratorFailed`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"job": job, **arguments}).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise GeneratorFailed("the load generator is gone")
        result: dict[str, Any] = json.loads(line)
        if "error" in result:
            raise GeneratorFailed(result["error"])
        seen = {"job": job, "core_share": result["core_share"]}
        self.jobs.append(seen | {name: result[name] for name in ("rate",) if name in result})
        return result


@contextlib.asynccontextmanager
async def running_generator() -> AsyncIterator[Generator]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.load"),
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=LINE_LIMIT_BYTES,
    )
    try:
        yield Generator(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            # It is in the middle of a job that nobody waits for any more.
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def beside(module: str, url: str, *words: str, given: str = "") -> AsyncIterator[int]:
    """A server of the benchmark's own (`python -m module words…`), ready when `url` takes connections; its pid.

    `given` is written to its standard input, for what must not stand on a command line.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *words), cwd=PROJECT, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(given.encode())
    process.stdin.close()
    try:
        await _taken(url, process)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _taken(url: str, process: asyncio.subprocess.Process) -> None:
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    for _ in range(300):
        if process.returncode is not None:
            raise GeneratorFailed(f"the server at {url} ended with {process.returncode}")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            return
        await asyncio.sleep(0.1)
    raise GeneratorFailed(f"the server at {url} did not start")

"""A load generator over raw HTTP/1.1 keep-alive connections, small enough not to be the bottleneck.

Latencies are real seconds from the moment a request was due (paced) or sent (closed loop) to the end of its answer.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

READ_CHUNK = 64 * 1024


@dataclass
class Result:
    """What one run saw. `seconds` is its wall time."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    failures: int = 0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """The latency, in seconds, that this share of requests did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Connection:
    """One keep-alive connection that sends prepared requests and reads whole answers."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, await reader.readexactly(length) if length else b""

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


def post(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A prepared POST request."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in {"Content-Type": "application/json", **headers}.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def closed_loop(url: str, make: Callable[[int], bytes], connections: int, seconds: float) -> Result:
    """Each connection sends its next request as soon as the answer to the last is there."""
    result = Result()
    began = time.perf_counter()
    until = began + seconds
    counter = iter(range(1_000_000_000))

    async def worker() -> None:
        connection = Connection(url)
        while (sent := time.perf_counter()) < until:
            status, answer = await connection.send(make(next(counter)))
            result.latencies.append(time.perf_counter() - sent)
            if status >= 300:
                result.failures += 1
            else:
                result.answers.append(answer)
        await connection.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    result.seconds = time.perf_counter() - began
    return result


async def paced(url: str, make: Callable[[int], bytes], rate: float, seconds: float, connections: int = 32) -> Result:
    """A steady rate; a request that waits for a free connection is charged for the wait."""
    result = Result()
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(Connection(url))
    began = time.perf_counter()

    async def one(number: int, due: float) -> None:
        connection = await free.get()
        status, answer = await connection.send(make(number))
        result.latencies.append(time.perf_counter() - due)
        if status >= 300:
            result.failures += 1
        else:
            result.answers.append(answer)
        free.put_nowait(connection)

    tasks = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    result.seconds = time.perf_counter() - began
    while not free.empty():
        await free.get_nowait().close()
    return result

"""HTTP/1.1 keep-alive connections of the load generator: prepared bytes out, status and body in, nothing between."""

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

Answered = Callable[[int, bytes], None]


class Wire(asyncio.Protocol):
    """One connection, one request at a time. `answered` is called with status and body of each answer.

    Answers without a `Content-Length` are not understood; a lost connection ends up in `lost`.
    """

    def __init__(self) -> None:
        self.answered: Answered = lambda status, body: None
        self.lost: Callable[[], object] = lambda: None
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = b""
        self._needed = 0
        self._start = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.lost()

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, request: bytes) -> None:
        """Raises `ConnectionError` when the server has closed the connection."""
        if self._transport is None:
            raise ConnectionError("the server closed the connection")
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not self._needed:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            length = LENGTH.search(buffer, 0, end + 2)
            self._start = end + 4
            self._needed = self._start + (int(length[1]) if length else 0)
        if len(buffer) < self._needed:
            self._buffer = buffer
            return
        status, body = int(buffer[9:12]), buffer[self._start : self._needed]
        self._buffer, self._needed = buffer[self._needed :], 0
        self.answered(status, body)

    def close(self) -> None:
        self.lost = lambda: None
        if self._transport is not None:
            self._transport.close()


async def connect(url: str, count: int) -> list[Wire]:
    """That many connections to the server of this address. Raises `OSError`."""
    parts = urlsplit(url)
    loop: Any = asyncio.get_running_loop()
    made = await asyncio.gather(
        *(loop.create_connection(Wire, parts.hostname or "127.0.0.1", parts.port or 80) for _ in range(count))
    )
    return [wire for _, wire in made]

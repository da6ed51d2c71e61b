"""Newline-delimited JSON, in and out at the same time: lines are answered while later ones are still being sent.

Memory stays bounded: a line has a limit, and so have the answers that a client does not read while it sends.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.http.limits import BODY_LIMIT_BYTES

MEDIA_TYPE = "application/x-ndjson"
MEDIA_TYPES = (MEDIA_TYPE, "application/ndjson", "application/jsonl")

# Many clients send all they have before they read. As long as this holds the answers, they need not do both at once.
UNREAD_BYTES = 16 * 1024 * 1024


class Lines:
    """Cuts a stream of bytes into lines, numbered from 1. A line over the limit comes as None."""

    def __init__(self, limit_bytes: int = BODY_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._rest = b""
        self._skipping = False
        self.number = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """The lines that end in this chunk."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            yield self._end(part)
        self._append(rest)

    def rest(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, when no newline ends it. Only for a stream that is complete."""
        if self._rest or self._skipping:
            yield self._end(b"")

    def _append(self, part: bytes) -> None:
        if len(self._rest) + len(part) > self._limit:
            self._skipping = True
        self._rest = b"" if self._skipping else self._rest + part

    def _end(self, part: bytes) -> tuple[int, bytes | None]:
        self._append(part)
        line = None if self._skipping else self._rest
        self._rest, self._skipping = b"", False
        self.number += 1
        return self.number, line


class StreamedAnswer(Response):
    """Sends parts as they come, 200. Starlette's own streaming waits for the client's leaving on the request's channel,
    and would eat the body that is still to be read."""

    media_type = MEDIA_TYPE

    def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
        self.status_code = 200
        self.background = None
        self._parts = parts
        self._unread: deque[bytes] = deque()
        self._size = 0
        self._more, self._room = asyncio.Event(), asyncio.Event()
        self.init_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        collecting = asyncio.create_task(self._collect())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while self._unread or not collecting.done():
                await self._more.wait()
                self._more.clear()
                body = b"".join(self._unread)
                self._unread.clear()
                self._size = 0
                self._room.set()
                if body:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            await collecting
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            collecting.cancel()

    async def _collect(self) -> None:
        try:
            async with aclosing(self._parts) as parts:
                async for part in parts:
                    self._unread.append(part)
                    self._size += len(part)
                    self._more.set()
                    if self._size > UNREAD_BYTES:
                        self._room.clear()
                        await self._room.wait()
        finally:
            self._more.set()

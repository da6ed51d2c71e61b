"""One import as NDJSON, sent as fast as intake reads it while its answers are read, in the load generator's process."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

CHUNK_BYTES = 64 * 1024
TAKEN = b'"status":201'


async def send(url: str, key: str, bodies: Iterator[bytes], lines: int) -> dict[str, Any]:
    """Lines taken and refused, and the seconds until the last answer was read."""
    parts = urlsplit(url)
    made = list(bodies)
    size = sum(map(len, made)) + len(made)
    head = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Authorization: Bearer {key}"]
    head += ["Content-Type: application/x-ndjson", f"Content-Length: {size}", "Connection: close"]
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    began = time.perf_counter()
    writer.write("\r\n".join([*head, f"Idempotency-Key: bulk-{time.time_ns()}"]).encode() + b"\r\n\r\n")
    sending = asyncio.create_task(_send(writer, made))
    taken, carried = 0, b""
    while data := await reader.read(CHUNK_BYTES):
        text = carried + data
        taken += text.count(TAKEN)
        # What may be the beginning of a match is looked at again with what follows; a whole match is longer.
        carried = text[-(len(TAKEN) - 1) :]
    seconds = time.perf_counter() - began
    await sending
    writer.close()
    return {"lines": lines, "done": taken, "seconds": seconds, "rate": taken / seconds, "bytes": size}


async def _send(writer: asyncio.StreamWriter, made: list[bytes]) -> None:
    chunk = bytearray()
    for line in made:
        chunk += line + b"\n"
        if len(chunk) >= CHUNK_BYTES:
            writer.write(bytes(chunk))
            await writer.drain()
            chunk.clear()
    writer.write(bytes(chunk))
    await writer.drain()

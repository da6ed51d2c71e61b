"""A real intake on a real port, in a process of its own, and clients of bare sockets that may misbehave."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil

from deploy.local.supervisor import PROJECT
from shared.http.keys import Role, generate_key, save_records
from tests.support.apps import random_key
from tests.support.parts import free_port

START_SECONDS = 60.0


@dataclass
class Reply:
    """One answer, as it came over the wire. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(orjson.loads(self.body)["code"])


class Client:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        """The next answer. Raises `IncompleteReadError` when the connection ends without one."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = b"".join([chunk async for chunk in self.chunks()])
        return Reply(int(first.split()[1]), headers, body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of a chunked body, as they come."""
        while size := int(await self.reader.readline(), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()

    async def ended_after(self) -> float:
        """Seconds until the server has closed the connection; what it still sends is dropped."""
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        return time.monotonic() - began

    def close(self) -> None:
        self.writer.transport.abort()


@dataclass
class Server:
    """The process, and two keys of front lines that know nothing of each other."""

    port: int
    keys: tuple[str, str]
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(self.process.memory_info().rss)

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24))

    @asynccontextmanager
    async def clients(self, count: int) -> AsyncIterator[list[Client]]:
        """That many connections, dropped at the end."""
        connected: list[Client] = []
        try:
            for _ in range(count):
                connected.append(await self.connect())
            yield connected
        finally:
            for client in connected:
                client.close()

    def head(self, line: str, *headers: str, key: int | None = 0) -> bytes:
        """A request's head; `key` says which client, None nobody."""
        known = [f"Authorization: Bearer {self.keys[key]}"] if key is not None else []
        return "\r\n".join([f"{line} HTTP/1.1", "Host: test", *known, *headers]).encode() + b"\r\n\r\n"

    async def ask(self, line: str, *headers: str, key: int | None = 0, body: bytes = b"") -> Reply:
        """One request on a connection of its own."""
        client = await self.connect()
        length = [f"Content-Length: {len(body)}", "Content-Type: application/json"] if body else []
        try:
            await client.send(self.head(line, *headers, *length, key=key) + body)
            return await client.reply()
        finally:
            client.close()


@asynccontextmanager
async def running_server(url: str, folder: Path, **settings: float) -> AsyncIterator[Server]:
    """Serve the role `api` of intake on this database; no broker is needed."""
    made = [generate_key(Role.front_line, f"gateway {number}") for number in (1, 2)]
    save_records(folder / "keys.json", [record for _, record in made])
    port = free_port()
    environment = os.environ | {
        "INTAKE_DATABASE_URL": url,
        "INTAKE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "INTAKE_KEYS_FILE": str(folder / "keys.json"),
        "INTAKE_DATA_KEY": random_key().get_secret_value(),
        "INTAKE_INDEX_KEY": random_key().get_secret_value(),
        "INTAKE_HTTP_PORT": str(port),
        **{f"INTAKE_{name.upper()}": str(value) for name, value in settings.items()},
    }
    with (folder / "intake.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - its stop is waited for in a thread
            (sys.executable, "-m", "services.intake", "--roles", "api"),
            cwd=PROJECT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    server = Server(port, (made[0][0], made[1][0]), psutil.Process(process.pid))
    try:
        await _until_it_answers(server, process, folder)
        yield server
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)


async def _until_it_answers(server: Server, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if (await server.ask("GET /health/live", key=None)).status == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((folder / "intake.log").read_text(errors="replace")[-4000:])
        await asyncio.sleep(0.1)

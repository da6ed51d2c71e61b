"""A TCP proxy that does what bad networks do, in front of PostgreSQL, the broker and the services.

One proxy has one target and at most one spell at a time; it changes while connections are open. Outside a spell it
only copies. It lives in the event loop of the run that owns it.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

HOST = "127.0.0.1"
CHUNK = 64 * 1024
SLICED_BYTES = 512

Kind = Literal["latency", "blackhole", "reset", "half_close", "slices", "loss"]
KINDS: tuple[Kind, ...] = ("latency", "blackhole", "reset", "half_close", "slices", "loss")
# Kinds under which nothing gets through for the whole spell.
CUTS: frozenset[Kind] = frozenset({"blackhole", "reset", "half_close"})


@dataclass(frozen=True)
class Spell:
    """How the way is bad. `delay` ± `jitter` are seconds added to each chunk; `rate` is the share of chunks lost, and
    a lost chunk resets its connection, as TCP's repeats would otherwise hide it."""

    kind: Kind
    delay: float = 0.2
    jitter: float = 0.1
    rate: float = 0.02


class Link:
    """One connection through the proxy."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far

    def reset(self) -> None:
        """End both sides at once, with a reset instead of a farewell."""
        for side in (self.near, self.far):
            plug = side.get_extra_info("socket")
            with contextlib.suppress(OSError):
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.transport.abort()

    def half_close(self) -> None:
        """Say to the client that no more will come, while it may still send."""
        with contextlib.suppress(OSError, RuntimeError):
            self.near.write_eof()


class Proxy:
    """Listens on `port` and copies to its targets in turn, but not to one that is down, as well as the spell allows."""

    def __init__(self, name: str, port: int, targets: Sequence[int], chance: random.Random) -> None:
        self.name = name
        self.port = port
        self._targets = deque(targets)
        self._chance = chance
        self._spell: Spell | None = None
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None
        self._passable = asyncio.Event()
        self._passable.set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port, backlog=512)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for link in list(self._links):
                link.reset()

    def cast(self, spell: Spell) -> None:
        """Begin a spell, also for the connections that are open."""
        self._spell = spell
        if spell.kind == "blackhole":
            self._passable.clear()
        for link in list(self._links):
            self._strike(link, spell)

    def lift(self) -> None:
        self._spell = None
        self._passable.set()

    def _strike(self, link: Link, spell: Spell) -> None:
        if spell.kind == "reset":
            link.reset()
        elif spell.kind == "half_close":
            link.half_close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await self._reach()
        if far is None:
            Link(writer, writer).reset()
            return
        far_reader, far_writer = far
        link = Link(writer, far_writer)
        for side in (writer, far_writer):
            side.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.add(link)
        if self._spell is not None:
            self._strike(link, self._spell)
        try:
            await asyncio.gather(self._pump(link, reader, far_writer), self._pump(link, far_reader, writer))
        except (OSError, RuntimeError):
            link.reset()
        finally:
            self._links.discard(link)
            for side in (writer, far_writer):
                side.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the next target that listens."""
        for _ in range(len(self._targets)):
            self._targets.rotate()
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(HOST, self._targets[0])
        return None

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._passable.wait()
            spell = self._spell
            if spell is None:
                writer.write(data)
            elif spell.kind == "loss" and self._chance.random() < spell.rate:
                link.reset()
                return
            elif spell.kind == "slices":
                await self._slice(writer, data)
            else:
                if spell.kind == "latency":
                    await asyncio.sleep(max(0.0, spell.delay + spell.jitter * self._chance.uniform(-1, 1)))
                writer.write(data)
            await writer.drain()
        if writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()

    async def _slice(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """The first bytes one by one, each as its own segment; the rest at once, or a big answer would take minutes."""
        for index in range(min(len(data), SLICED_BYTES)):
            writer.write(data[index : index + 1])
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(data[SLICED_BYTES:])

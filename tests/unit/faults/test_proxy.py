"""The proxy does what its spells say, and nothing outside them."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import Proxy, Spell
from tests.support.parts import free_port

SHORT_SECONDS = 0.3
LIMIT_SECONDS = 5.0
TEXT = b"x" * 700


@asynccontextmanager
async def echo() -> AsyncIterator[Proxy]:
    """A proxy in front of a server that says everything back."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
            await writer.drain()
        writer.close()

    target, port = free_port(), free_port()
    server = await asyncio.start_server(answer, "127.0.0.1", target)
    proxy = Proxy("echo", port, [free_port(), target], random.Random(1))
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, proxy: Proxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def ask(self, text: bytes, seconds: float = LIMIT_SECONDS) -> bytes:
        self.writer.write(text)
        return await asyncio.wait_for(self.reader.readexactly(len(text)), seconds)


async def test_without_a_spell_everything_passes() -> None:
    async with echo() as proxy:
        client = await Client.to(proxy)
        assert await client.ask(TEXT) == TEXT
        client.writer.close()


async def test_latency_makes_both_ways_slow_and_changes_nothing() -> None:
    async with echo() as proxy:
        client = await Client.to(proxy)
        proxy.cast(Spell("latency", delay=0.2, jitter=0.05))
        began = time.monotonic()
        assert await client.ask(TEXT) == TEXT
        assert time.monotonic() - began >= 0.3
        client.writer.close()


async def test_a_blackhole_holds_what_comes_and_gives_it_up_at_the_end() -> None:
    async with echo() as proxy:
        client = await Client.to(proxy)
        proxy.cast(Spell("blackhole"))
        with pytest.raises(TimeoutError):
            await client.ask(TEXT, SHORT_SECONDS)
        proxy.lift()
        assert await asyncio.wait_for(client.reader.readexactly(len(TEXT)), LIMIT_SECONDS) == TEXT
        client.writer.close()


@pytest.mark.parametrize("spell", [Spell("reset"), Spell("loss", rate=1.0)])
async def test_a_reset_ends_a_connection_and_the_next_one_works_again(spell: Spell) -> None:
    async with echo() as proxy:
        client = await Client.to(proxy)
        assert await client.ask(TEXT) == TEXT
        proxy.cast(spell)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.ask(TEXT)
        proxy.lift()
        client = await Client.to(proxy)
        assert await client.ask(TEXT) == TEXT
        client.writer.close()


async def test_half_closed_a_client_reads_an_end_and_may_still_write() -> None:
    async with echo() as proxy:
        client = await Client.to(proxy)
        assert await client.ask(TEXT) == TEXT
        proxy.cast(Spell("half_close"))
        assert await asyncio.wait_for(client.reader.read(), LIMIT_SECONDS) == b""
        client.writer.write(TEXT)
        await client.writer.drain()
        client.writer.close()


async def test_slices_arrive_whole() -> None:
    async with echo() as proxy:
        client = await Client.to(proxy)
        proxy.cast(Spell("slices"))
        assert await client.ask(TEXT) == TEXT
        client.writer.close()


async def test_a_target_that_is_down_resets_the_client() -> None:
    proxy = Proxy("nobody", free_port(), [free_port()], random.Random(1))
    await proxy.open()
    client = await Client.to(proxy)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await client.ask(TEXT)
    await proxy.close()

"""The door of a service, on a real server with bare sockets: clients that are slow, silent, huge, or too many."""

import asyncio
import time
from collections.abc import AsyncIterator

import orjson
import pytest
import pytest_asyncio

from tests.support.parts import Databases
from tests.support.server import Client, Server, running_server
from tests.support.tickets import complaint

WASTE = {"extension": b"1;" + b"x" * 60_000, "trailer": b"0\r\nTrailer: " + b"x" * 60_000}
MEGABYTE = 1024 * 1024
HEADER_SECONDS, IDLE_SECONDS, BODY_SECONDS, UNREAD_SECONDS = 2.0, 1.5, 3.0, 2.0
CONNECTIONS = 600
RATE = 100
# What a busy machine may add to a time-out.
SLACK_SECONDS = 5.0


@pytest_asyncio.fixture(scope="module")
async def server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("limits")
    async with running_server(
        await databases.fresh("intake"),
        folder,
        http_header_seconds=HEADER_SECONDS,
        http_body_idle_seconds=IDLE_SECONDS,
        http_body_seconds=BODY_SECONDS,
        http_unread_seconds=UNREAD_SECONDS,
        http_connection_limit=CONNECTIONS,
        http_request_limit=30,
        rate_limit_per_second=RATE,
        rate_limit_burst=RATE,
    ) as running:
        yield running
    # Whatever a client does is no error of ours.
    log = (folder / "intake.log").read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert '"level":"ERROR"' not in log


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    connected = await server.connect()
    yield connected
    connected.close()


def post(server: Server, *headers: str) -> bytes:
    return server.head("POST /v1/tickets", "Content-Type: application/json", *headers)


# ---- slow clients ----------------------------------------------------------------------------------------------------


async def test_a_connection_that_says_nothing_is_closed(client: Client) -> None:
    assert HEADER_SECONDS - 0.5 < await client.ended_after() < HEADER_SECONDS + SLACK_SECONDS


async def test_half_a_header_gets_408(client: Client) -> None:
    began = time.monotonic()
    await client.send(b"GET /health/live HTTP/1.1\r\nHost: te")
    reply = await client.reply()
    assert (reply.status, reply.code) == (408, "request_timeout")
    assert reply.headers["content-type"] == "application/problem+json"
    assert HEADER_SECONDS - 0.5 < time.monotonic() - began < HEADER_SECONDS + SLACK_SECONDS
    assert await client.ended_after() < SLACK_SECONDS


async def test_headers_that_trickle_in_get_408(client: Client) -> None:
    async def trickle() -> None:
        for number in range(100):
            await client.send(f"X-{number}: 1\r\n".encode())
            await asyncio.sleep(0.2)

    await client.send(b"GET /health/live HTTP/1.1\r\n")
    trickling = asyncio.create_task(trickle())
    assert (await client.reply()).status == 408
    trickling.cancel()
    await asyncio.gather(trickling, return_exceptions=True)


async def test_half_a_body_gets_408(server: Server, client: Client) -> None:
    await client.send(post(server, "Content-Length: 1000") + b'{"channel":')
    began = time.monotonic()
    reply = await client.reply()
    assert (reply.status, reply.code) == (408, "request_timeout")
    assert IDLE_SECONDS - 0.5 < time.monotonic() - began < IDLE_SECONDS + SLACK_SECONDS
    assert await client.ended_after() < SLACK_SECONDS


async def test_a_body_of_some_bytes_a_second_gets_408(server: Server, client: Client) -> None:
    async def trickle() -> None:
        while True:
            await client.send(b" ")
            await asyncio.sleep(0.3)

    await client.send(post(server, "Content-Length: 1000"))
    began = time.monotonic()
    trickling = asyncio.create_task(trickle())
    assert (await client.reply()).status == 408
    assert BODY_SECONDS - 0.5 < time.monotonic() - began < BODY_SECONDS + SLACK_SECONDS
    trickling.cancel()
    await asyncio.gather(trickling, return_exceptions=True)


async def test_the_wait_starts_anew_for_each_request_of_a_connection(server: Server, client: Client) -> None:
    for _ in range(3):
        await client.send(server.head("GET /health/live"))
        assert (await client.reply()).status == 200
        await asyncio.sleep(HEADER_SECONDS * 0.7)
    await client.send(b"GET /health/live HTTP/1.1\r\n")
    assert (await client.reply()).status == 408


async def test_a_body_that_follows_its_refusal_does_not_cost_the_connection(server: Server, client: Client) -> None:
    await client.send(server.head("POST /nowhere", "Content-Length: 5"))
    assert (await client.reply()).status == 404
    await client.send(b"12345" + server.head("GET /health/live"))
    assert (await client.reply()).status == 200


async def test_clients_that_do_not_read_hold_little_memory_and_are_closed(server: Server) -> None:
    before = server.memory
    async with server.clients(12) as clients:
        for each in clients:
            each.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await each.send(server.head("GET /static-offline-docs/swagger-ui-bundle.js", key=None) * 10)
        highest = before
        for _ in range(10):
            await asyncio.sleep(UNREAD_SECONDS / 5)
            highest = max(highest, server.memory)
        await asyncio.sleep(UNREAD_SECONDS)
        for each in clients:
            each.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert max(await asyncio.gather(*(each.ended_after() for each in clients))) < SLACK_SECONDS
    print(f"12 clients that do not read: {(highest - before) / MEGABYTE:.1f} MiB more")
    assert highest - before < 50 * MEGABYTE


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_a_request_in_small_pieces_is_still_a_request(server: Server, client: Client, size: int) -> None:
    body = orjson.dumps(complaint())
    whole = post(server, f"Content-Length: {len(body)}") + body + server.head("GET /health/live")
    for start in range(0, len(whole), size):
        await client.send(whole[start : start + size])
        await asyncio.sleep(0)
    assert [(await client.reply()).status for _ in range(2)] == [201, 200]


# ---- too much --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["X: " + "x" * 20_000, "X: " + "\r\nX: ".join(["x" * 90] * 200)], ids=["one", "many"])
async def test_more_than_16_kib_of_headers_get_431(server: Server, client: Client, field: str) -> None:
    await client.send(server.head("GET /health/live", field))
    reply = await client.reply()
    assert (reply.status, reply.code) == (431, "headers_too_large")
    assert await client.ended_after() < SLACK_SECONDS


async def test_a_header_without_end_gets_431(client: Client) -> None:
    await client.send(b"GET /health/live HTTP/1.1\r\nX: ")
    for _ in range(5):
        await client.send(b"x" * 4096)
        await asyncio.sleep(0.01)
    assert (await client.reply()).status == 431


async def test_15_kib_of_headers_are_fine(server: Server) -> None:
    assert (await server.ask("GET /health/live", "X: " + "x" * 15_000)).status == 200


async def test_what_is_not_http_gets_a_problem(client: Client) -> None:
    await client.send(b"\x16\x03\x01 hello\r\n\r\n")
    reply = await client.reply()
    assert (reply.status, reply.code) == (400, "invalid_http")


async def test_a_declared_body_of_100_mb_gets_413_unread(server: Server, client: Client) -> None:
    before = server.memory
    await client.send(post(server, "Content-Length: 100000000"))
    reply = await client.reply()
    assert (reply.status, reply.code, reply.headers["connection"]) == (413, "body_too_large", "close")
    assert await client.ended_after() < SLACK_SECONDS
    assert server.memory - before < 50 * MEGABYTE


async def test_a_chunked_body_of_100_mb_stops_at_the_limit(server: Server, client: Client) -> None:
    before = highest = server.memory
    await client.send(post(server, "Transfer-Encoding: chunked"))
    sent = 0

    async def pour() -> None:
        nonlocal sent, highest
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        while sent < 100 * MEGABYTE:
            await client.send(piece)
            sent += 65536
            highest = max(highest, server.memory)

    pouring = asyncio.create_task(pour())
    reply = await client.reply()
    assert (reply.status, reply.code) == (413, "body_too_large")
    await client.ended_after()
    await asyncio.gather(pouring, return_exceptions=True)
    print(f"chunked without end: {sent / MEGABYTE:.0f} MiB sent, {(highest - before) / MEGABYTE:.1f} MiB more memory")
    assert highest - before < 50 * MEGABYTE


@pytest.mark.parametrize("waste", WASTE)
async def test_bytes_that_are_no_body_have_a_limit_too(server: Server, client: Client, waste: str) -> None:
    await client.send(post(server, "Transfer-Encoding: chunked"))
    await asyncio.sleep(0.2)
    await client.send(WASTE[waste])
    reply = await client.reply()
    assert (reply.status, reply.code) == (400, "invalid_http")


async def test_json_of_33_levels_is_refused_and_of_32_read(server: Server) -> None:
    async def ask(depth: int) -> str:
        nested = b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
        return (await server.ask("POST /v1/tickets", body=nested)).code

    assert await ask(33) == await ask(100_000) == "json_too_deep"
    assert await ask(32) == "invalid_request"


async def test_requests_piled_up_on_one_connection_have_an_end(server: Server, client: Client) -> None:
    await client.send(server.head("GET /openapi.json", key=None) * 200)
    await client.ended_after()
    assert (await server.ask("GET /health/live")).status == 200


# ---- too many --------------------------------------------------------------------------------------------------------


async def test_more_connections_than_the_limit_get_503(server: Server) -> None:
    async with server.clients(CONNECTIONS + 1) as clients:
        reply = await clients[-1].reply()
    assert (reply.status, reply.code, reply.headers["connection"]) == (503, "too_many_connections", "close")
    assert int(reply.headers["retry-after"]) > 0
    await asyncio.sleep(0.5)
    assert (await server.ask("GET /health/live")).status == 200


async def test_a_good_client_does_not_feel_500_half_open_ones(server: Server) -> None:
    calm = await _slowest_of(server, 100)
    kinds = [b"", b"GET /health/live HTTP/1.1\r\nHost: t"]
    async with server.clients(500) as clients:
        for number, each in enumerate(clients):
            await each.send(kinds[number % 2])
        besieged = await _slowest_of(server, 100)
        print(f"99th of 100 registrations: calm {calm * 1000:.1f} ms, beside 500 half-open {besieged * 1000:.1f} ms")
        assert besieged < 1.0
        ended = await asyncio.gather(*(each.ended_after() for each in clients))
    assert max(ended) < HEADER_SECONDS + SLACK_SECONDS


async def _slowest_of(server: Server, count: int) -> float:
    """Seconds that 99 of 100 registrations took at most, one after the other on one connection."""
    client = await server.connect()
    taken = []
    for _ in range(count):
        body = orjson.dumps(complaint())
        began = time.monotonic()
        await client.send(post(server, f"Content-Length: {len(body)}") + body)
        assert (await client.reply()).status == 201
        taken.append(time.monotonic() - began)
        await asyncio.sleep(0.01)
    client.close()
    return sorted(taken)[int(count * 0.99) - 1]


async def test_more_requests_at_once_than_the_limit_get_503(server: Server) -> None:
    async with server.clients(40) as clients:
        for each in clients:
            await each.send(post(server, "Content-Length: 100") + b"{")
        busy = await server.ask("GET /v1/tickets")
        alive = await server.ask("GET /health/live")
    assert (busy.status, busy.code) == (503, "overloaded")
    assert int(busy.headers["retry-after"]) > 0
    assert alive.status == 200
    await asyncio.sleep(0.5)
    assert (await server.ask("GET /v1/tickets")).status == 200


# ---- too often -------------------------------------------------------------------------------------------------------


async def test_a_client_that_asks_too_often_gets_429_and_another_does_not(server: Server) -> None:
    await asyncio.sleep(1.0)
    client = await server.connect()
    replies = []
    for _ in range(RATE // 2):
        # Refused without the database, and ten at a time: faster than the rate on any machine.
        await client.send(server.head("GET /v1/tickets?limit=0") * 10)
        replies += [await client.reply() for _ in range(10)]
    client.close()
    limited = [reply for reply in replies if reply.status == 429]
    assert limited
    assert replies[0].status == 422
    assert replies[0].headers["ratelimit"] == f'"client";r={RATE - 1};t=1'
    assert {reply.headers["ratelimit-policy"] for reply in replies} == {f'"client";q={RATE};w=1'}
    assert limited[0].code == "rate_limited"
    assert limited[0].headers["ratelimit"] == '"client";r=0;t=1'
    assert limited[0].headers["retry-after"] == "1"
    assert (await server.ask("GET /v1/tickets", key=1)).status == 200
    await asyncio.sleep(1.0)
    assert (await server.ask("GET /v1/tickets")).status == 200


async def test_a_flood_of_wrong_keys_gets_429_and_a_right_one_does_not(server: Server) -> None:
    # The server trusts this header from its own machine, as it does with a proxy there.
    here, there = "X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 203.0.113.10"
    wrong = "Authorization: Bearer gd_knobody_nothing"
    statuses = [(await server.ask("GET /v1/tickets", here, wrong, key=None)).status for _ in range(30)]
    assert statuses[:20] == [401] * 20
    assert statuses[-1] == 429
    assert (await server.ask("GET /v1/tickets", there, wrong, key=None)).status == 401
    assert (await server.ask("GET /v1/tickets", here)).status == 200

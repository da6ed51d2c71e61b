"""Import as NDJSON: every line gets its answer, in order, and a cut import can be sent again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text

from services.intake.app import build
from services.intake.settings import Settings
from services.intake.usecases import bulk
from shared.errors import Transient
from shared.http import ndjson
from tests.support.apps import App, random_key, running_app
from tests.support.parts import Databases
from tests.support.server import Client, Server, running_server
from tests.support.tickets import complaint

PATH = "/v1/tickets:batch"
NDJSON = {"Content-Type": "application/x-ndjson"}
LIMIT = 2 * 1024 * 1024


@pytest_asyncio.fixture(scope="module")
async def app(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with running_app(
        build,
        Settings,
        await databases.fresh("intake"),
        tmp_path_factory.mktemp("import"),
        data_key=random_key(),
        index_key=random_key(),
        import_body_limit_bytes=LIMIT,
    ) as running:
        yield running


@pytest_asyncio.fixture
async def front(app: App) -> AsyncIterator[httpx.AsyncClient]:
    async with app.client("front_line") as client:
        yield client


@pytest_asyncio.fixture(scope="module")
async def server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("import_server")
    async with running_server(
        await databases.fresh("intake"), folder, http_body_seconds=1, http_body_idle_seconds=3
    ) as s:
        yield s
    log = (folder / "intake.log").read_text(encoding="utf-8")
    assert '"level":"ERROR"' not in log


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    connected = await server.connect()
    yield connected
    connected.close()


def lines(*bodies: Any) -> bytes:
    return b"".join((body if isinstance(body, bytes) else orjson.dumps(body)) + b"\n" for body in bodies)


def parsed(content: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in content.splitlines()]


async def tickets(app: App) -> int:
    async def run(connection: Any) -> int:
        return int((await connection.execute(text("SELECT count(*) FROM tickets"))).scalar_one())

    return await app.service.database.read(run)


async def send(front: httpx.AsyncClient, content: bytes, **headers: str) -> list[dict[str, Any]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await front.post(PATH, content=content, headers=NDJSON | named)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return parsed(answer.content)


async def test_each_line_gets_its_own_answer_in_order(app: App, front: httpx.AsyncClient) -> None:
    before = await tickets(app)
    answers = await send(
        front,
        lines(
            complaint(),
            b"",
            complaint(category="no.such"),
            b"  ",
            b"{not json",
            complaint(elements={"location": "x" * 3000}),
            b'{"x":' + b"[" * 40 + b"]" * 40 + b"}",
            b'{"content": "' + b"x" * 300_000 + b'"}',
            b'"\xff"',
        )
        + orjson.dumps(complaint()),
    )
    assert [(a["line"], a["status"], a.get("code")) for a in answers] == [
        (1, 201, None),
        (3, 422, "unknown_value"),
        (5, 400, "invalid_json"),
        (6, 422, "invalid_request"),
        (7, 400, "json_too_deep"),
        (8, 413, "line_too_long"),
        (9, 400, "invalid_json"),
        (10, 201, None),
    ]
    assert answers[1]["errors"][0]["pointer"] == "/category"
    assert answers[3]["errors"][0]["pointer"] == "/elements/location"
    assert await tickets(app) == before + 2
    found = (await front.get(f"/v1/tickets/{answers[0]['ticket_no']}")).json()
    assert found["ticket_id"] == answers[0]["ticket_id"]


async def test_more_lines_than_a_transaction_takes_keep_their_order(app: App, front: httpx.AsyncClient) -> None:
    before = await tickets(app)
    answers = await send(front, lines(*(complaint() for _ in range(600))))
    assert [a["line"] for a in answers] == list(range(1, 601))
    assert {a["status"] for a in answers} == {201}
    assert len({a["ticket_no"] for a in answers}) == 600
    assert await tickets(app) == before + 600


async def test_the_same_import_again_gives_the_same_answers(app: App, front: httpx.AsyncClient) -> None:
    content = lines(*(complaint() for _ in range(20)), complaint(category="no.such"))
    first = await send(front, content, Idempotency_Key="import-1")
    before = await tickets(app)
    assert await send(front, content, Idempotency_Key="import-1") == first
    assert await tickets(app) == before
    changed = lines(complaint(), *content.splitlines()[1:])
    again = await send(front, changed, Idempotency_Key="import-1")
    assert (again[0]["status"], again[0]["code"]) == (422, "idempotency_key_reused")
    assert again[1:] == first[1:]


async def test_external_ids_make_lines_safe_to_repeat_without_a_key(app: App, front: httpx.AsyncClient) -> None:
    content = lines(*(complaint(external_id=f"OLD-{number}") for number in range(5)))
    first = await send(front, content)
    assert await send(front, b"\n" + content) == [answer | {"line": answer["line"] + 1} for answer in first]


async def test_a_line_and_a_single_post_of_the_same_complaint_are_one(front: httpx.AsyncClient) -> None:
    body = orjson.dumps(complaint(external_id="both-ways"))
    single = (await front.post("/v1/tickets", content=body, headers={"Content-Type": "application/json"})).json()
    (line,) = await send(front, body + b"\r\n")
    assert line["ticket_id"] == single["ticket_id"]


async def test_a_byte_order_mark_at_the_start_is_no_fault(front: httpx.AsyncClient) -> None:
    assert [a["status"] for a in await send(front, b"\xef\xbb\xbf" + lines(complaint()))] == [201]


async def test_an_empty_import_has_an_empty_answer(front: httpx.AsyncClient) -> None:
    assert await send(front, b"") == await send(front, b"\n\n \n") == []


async def test_another_content_type_is_refused(front: httpx.AsyncClient) -> None:
    answer = await front.post(PATH, content=b"{}", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    for kind in ("application/jsonl", "application/x-ndjson; charset=utf-8"):
        assert (await front.post(PATH, content=b"", headers={"Content-Type": kind})).status_code == 200


async def test_a_branch_may_not_import(app: App) -> None:
    async with app.client("jinan") as branch:
        assert (await branch.post(PATH, content=b"", headers=NDJSON)).status_code == 403


async def test_too_large_a_backlog_stops_the_import_and_says_where(app: App, front: httpx.AsyncClient) -> None:
    relay = app.service.relay

    async def content() -> AsyncIterator[bytes]:
        yield lines(complaint(), complaint())
        await asyncio.sleep(0.3)
        relay.waiting = 10**9
        yield lines(complaint(), complaint())
        pytest.fail("what follows a stop is not read")

    try:
        answer = await front.post(PATH, content=content(), headers=NDJSON)
        refused = await front.post(PATH, content=lines(complaint()), headers=NDJSON)
    finally:
        relay.waiting = 0
    answers = parsed(answer.content)
    assert [(a["line"], a["status"]) for a in answers] == [(1, 201), (2, 201), (3, 503), (4, 503)]
    assert "send the rest again" in answers[-1]["detail"]
    assert (refused.status_code, refused.json()["code"]) == (503, "backlog_full")


async def test_a_database_that_is_away_stops_the_import(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise Transient("database: away")

    monkeypatch.setattr(app.service.database, "connection", away)
    async with app.client("front_line") as front:
        answers = await send(front, lines(complaint(), complaint()))
    assert [(a["line"], a["status"], a["code"]) for a in answers] == [(1, 503, "unavailable"), (2, 503, "unavailable")]


async def test_an_import_over_its_limit_keeps_what_came_before(app: App, front: httpx.AsyncClient) -> None:
    body = lines(complaint(content="很" * 2000))

    async def content() -> AsyncIterator[bytes]:
        for _ in range(2 * LIMIT // len(body)):
            yield body

    answers = parsed((await front.post(PATH, content=content(), headers=NDJSON)).content)
    assert {a["status"] for a in answers[:-1]} == {201}
    assert (answers[-1]["status"], answers[-1]["code"]) == (413, "body_too_large")
    assert [a["line"] for a in answers] == list(range(1, len(answers) + 1))
    declared = await front.post(PATH, content=b" " * (LIMIT + 1), headers=NDJSON)
    assert (declared.status_code, declared.json()["code"]) == (413, "body_too_large")


async def test_an_import_of_too_many_lines_ends_and_says_so(
    front: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LINES_LIMIT", 3)

    async def content() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield lines(complaint())

    answers = parsed((await front.post(PATH, content=content(), headers=NDJSON)).content)
    assert [(a["line"], a["status"]) for a in answers] == [(1, 201), (2, 201), (3, 201), (4, 413)]


async def test_answers_nobody_reads_yet_are_held_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "UNREAD_BYTES", 10)
    made, sent, may_send = 0, [], asyncio.Event()

    async def parts() -> Any:
        nonlocal made
        for _ in range(100):
            made += 1
            yield b"1234567\n"

    async def slow(message: Any) -> None:
        await may_send.wait()
        sent.append(message)

    async def nothing() -> Any:
        pytest.fail("the answer reads nothing itself")

    sending = asyncio.create_task(ndjson.StreamedAnswer(parts())({}, nothing, slow))
    await asyncio.sleep(0.05)
    assert made == 2
    may_send.set()
    await sending
    assert b"".join(message.get("body", b"") for message in sent) == b"1234567\n" * 100


# ---- over the wire ---------------------------------------------------------------------------------------------------


async def test_a_line_is_answered_before_the_next_is_sent(server: Server, client: Client) -> None:
    await client.send(server.head(f"POST {PATH}", "Content-Type: application/x-ndjson", "Transfer-Encoding: chunked"))
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    answers = client.chunks()
    for number in range(1, 4):
        # Longer in all than a usual body may take: an import has time as long as it moves.
        await asyncio.sleep(0.7)
        line = lines(complaint())
        await client.send(b"%x\r\n%s\r\n" % (len(line), line))
        answer = orjson.loads(await anext(answers))
        assert (answer["line"], answer["status"]) == (number, 201)
    await client.send(b"0\r\n\r\n")
    assert [chunk async for chunk in answers] == []


async def test_an_import_that_stands_still_is_cut(server: Server, client: Client) -> None:
    await client.send(
        server.head(f"POST {PATH}", "Content-Type: application/x-ndjson", "Content-Length: 9000") + b" " * 1000
    )
    assert 2.5 < await client.ended_after() < 8


async def test_a_cut_import_is_whole_after_it_is_sent_again(server: Server) -> None:
    bodies = [orjson.dumps(complaint()) + b"\n" for _ in range(1000)]
    content = b"".join(bodies)
    head = server.head(
        f"POST {PATH}",
        "Content-Type: application/x-ndjson",
        "Idempotency-Key: cut-import",
        f"Content-Length: {len(content)}",
    )
    before = await _count(server)
    cut = await server.connect()
    # Gone in the middle of line 701, while answers are on their way.
    await cut.send(head + content[: sum(map(len, bodies[:700])) + 100])
    first = await cut.reader.readuntil(b'"line":1,')
    cut.close()
    assert first
    await asyncio.sleep(1.0)
    stored = await _count(server) - before
    assert 0 < stored <= 700
    again = await server.connect()
    await again.send(head + content)
    reply = await again.reply()
    again.close()
    answers = parsed(reply.body)
    assert [a["line"] for a in answers] == list(range(1, 1001))
    assert {a["status"] for a in answers} == {201}
    assert await _count(server) == before + 1000


async def _count(server: Server) -> int:
    """All tickets, page by page."""
    page = orjson.loads((await server.ask("GET /v1/tickets?limit=200")).body)
    found = len(page["items"])
    while page["next_cursor"]:
        page = orjson.loads((await server.ask(f"GET /v1/tickets?limit=200&cursor={page['next_cursor']}")).body)
        found += len(page["items"])
    return found


async def test_a_client_that_sends_all_before_it_reads_gets_every_answer(server: Server) -> None:
    content = lines(*(complaint() for _ in range(3000)))
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
        answer = await client.post(
            PATH, content=content, headers=NDJSON | {"Authorization": f"Bearer {server.keys[1]}"}
        )
    assert [(a["line"], a["status"]) for a in parsed(answer.content)] == [(n, 201) for n in range(1, 3001)]

"""intake over HTTP on a real database: registration, safe retries, bad input, who may see what."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import text

from services.intake.app import build
from services.intake.settings import Settings
from tests.support.apps import App, random_key, running_app
from tests.support.parts import Databases
from tests.support.tickets import complaint, phone


@pytest_asyncio.fixture(scope="module")
async def app(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    url = await databases.fresh("intake")
    folder = tmp_path_factory.mktemp("intake")
    async with running_app(build, Settings, url, folder, data_key=random_key(), index_key=random_key()) as running:
        yield running


@pytest_asyncio.fixture
async def front(app: App) -> AsyncIterator[httpx.AsyncClient]:
    async with app.client("front_line") as client:
        yield client


async def count(app: App, table: str, where: str = "true", **values: Any) -> int:
    async def run(connection: Any) -> int:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table} WHERE {where}"), values)).scalar_one())

    return await app.service.database.read(run)


async def test_a_complaint_gets_its_number_and_is_stored_with_its_event(app: App, front: httpx.AsyncClient) -> None:
    answer = await front.post("/v1/tickets", json=complaint())
    assert answer.status_code == 201
    body = answer.json()
    assert (body["status"], body["version"]) == ("registered", 1)
    assert await count(app, "outbox", "subject = :id AND type = 'ticket.registered'", id=body["ticket_id"]) == 1
    by_number = (await front.get(body["links"]["self"])).json()
    by_id = (await front.get(f"/v1/tickets/{body['ticket_id']}")).json()
    assert by_number == by_id
    timeline = (await front.get(body["links"]["timeline"])).json()
    assert [entry["type"] for entry in timeline["entries"]] == ["ticket.registered"]
    assert "GDM-T9" in timeline["entries"][0]["rules"]


async def test_100_identical_posts_at_once_make_one_ticket_and_one_answer(app: App, front: httpx.AsyncClient) -> None:
    before = await count(app, "tickets")
    body = complaint()
    answers = await asyncio.gather(
        *(front.post("/v1/tickets", json=body, headers={"Idempotency-Key": "storm"}) for _ in range(100))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert await count(app, "tickets") == before + 1


async def test_complaints_that_share_a_transaction_keep_their_own_traces(app: App, front: httpx.AsyncClient) -> None:
    traces = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 9)]
    answers = await asyncio.gather(
        *(front.post("/v1/tickets", json=complaint(), headers={"traceparent": trace}) for trace in traces)
    )
    for answer, trace in zip(answers, traces, strict=True):
        ids = {"id": answer.json()["ticket_id"], "trace": trace}
        assert await count(app, "outbox", "subject = :id AND traceparent = :trace", **ids) == 1


async def test_100_posts_of_one_external_id_make_one_ticket(app: App, front: httpx.AsyncClient) -> None:
    before = await count(app, "tickets")
    body = complaint(external_id="CRM-1")
    answers = await asyncio.gather(*(front.post("/v1/tickets", json=body) for _ in range(100)))
    assert len({answer.content for answer in answers}) == 1
    again = await front.post("/v1/tickets", json=body, headers={"Idempotency-Key": "later"})
    repeat = await front.post("/v1/tickets", json=body, headers={"Idempotency-Key": "later"})
    assert again.content == repeat.content == answers[0].content
    assert await count(app, "tickets") == before + 1


async def test_a_key_or_external_id_with_another_body_is_refused(front: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    assert (await front.post("/v1/tickets", json=complaint(external_id="CRM-2"), headers=headers)).status_code == 201
    other = await front.post("/v1/tickets", json=complaint(external_id="CRM-3"), headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    other = await front.post("/v1/tickets", json=complaint(external_id="CRM-2"))
    assert (other.status_code, other.json()["code"]) == (422, "external_id_reused")
    assert other.json()["errors"][0]["pointer"] == "/external_id"


async def test_a_refused_complaint_keeps_no_answer_under_its_key(front: httpx.AsyncClient) -> None:
    assert (await front.post("/v1/tickets", json=complaint(external_id="CRM-9"))).status_code == 201
    body, headers = complaint(external_id="CRM-9"), {"Idempotency-Key": "refused"}
    answers = [await front.post("/v1/tickets", json=body, headers=headers) for _ in range(2)]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(422, "external_id_reused")] * 2


@pytest.mark.parametrize("value", ["1e400", "NaN", "-Infinity"])
async def test_numbers_that_are_none_are_refused(front: httpx.AsyncClient, value: str) -> None:
    body = json.dumps(complaint(elements={"amount": 1, "location": "x"})).replace('"amount": 1', f'"amount": {value}')
    answer = await front.post("/v1/tickets", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/elements/amount"


async def test_dates_out_of_reckoning_are_refused_in_a_query(front: httpx.AsyncClient) -> None:
    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-22T10:00:00"):
        assert (await front.get("/v1/tickets", params={"accepted_since": moment})).status_code == 422


async def test_what_people_write_later_is_masked_with_the_name_too(app: App, front: httpx.AsyncClient) -> None:
    body = complaint(
        customer={"name": "欧阳明月"},
        agent={"id": "A13800001234", "centre": "13800001234"},
        elements={"location": "x", "caller_number": 13800001234},
    )
    ticket = (await front.post("/v1/tickets", json=body)).json()
    path = ticket["links"]["self"]
    assert (await front.post(f"{path}/withdraw", json={"reason": "欧阳明月不再投诉"})).status_code == 200
    shown = (await front.get(path)).text + (await front.get(f"{path}/timeline")).text
    for secret in ("欧阳明月", "13800001234"):
        assert secret not in shown


async def test_what_leaves_intake_holds_no_personal_data(app: App, front: httpx.AsyncClient) -> None:
    number, other, identity = phone(), "13911112222", "370102198001011234"
    body = complaint(
        customer={"phone": number, "name": "欧阳明月"},
        content=f"我是欧阳明月,身份证{identity},请打 {other} 或 +86 139 1111 2222",
        place={"city": "jinan", "address": f"泉城路,找欧阳明月 {number}"},
    )
    ticket = (await front.post("/v1/tickets", json=body)).json()
    shown = (await front.get(ticket["links"]["self"])).text
    timeline = (await front.get(ticket["links"]["timeline"])).text

    async def stored(connection: Any) -> str:
        rows = await connection.execute(
            text("SELECT convert_from(payload, 'UTF8') FROM outbox WHERE subject = :id"), {"id": ticket["ticket_id"]}
        )
        dump = await connection.execute(
            text("SELECT row_to_json(tickets)::text FROM tickets WHERE ticket_id = :id"), {"id": ticket["ticket_id"]}
        )
        return "".join(row[0] for row in rows) + str(dump.scalar_one())

    everything = shown + timeline + await app.service.database.read(stored)
    for secret in (number, other, "1111 2222", identity, "欧阳明月"):
        assert secret not in everything


async def test_the_contact_is_given_to_handlers_only_and_each_read_is_recorded(
    app: App, front: httpx.AsyncClient
) -> None:
    number = phone()
    ticket = (await front.post("/v1/tickets", json=complaint(customer={"phone": number}))).json()
    path = f"/v1/tickets/{ticket['ticket_no']}/contact"
    assert (await front.get(path)).status_code == 403
    async with app.client("jinan") as branch:
        assert (await branch.get(path)).status_code == 404
    async with app.client("reviewer") as reviewer:
        assert (await reviewer.get(path)).json()["phone"] == number
    timeline = (await front.get(ticket["links"]["timeline"])).json()["entries"]
    assert [(entry["type"], entry["actor"]) for entry in timeline][-1] == ("contact.read", "reviewer:test reviewer")


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"category": "nonsense"}, 422, "/category"),
        ({"channel": "pigeon"}, 422, "/channel"),
        ({"kind": "poem"}, 422, "/kind"),
        ({"customer": {"home_city": "atlantis"}}, 422, "/customer/home_city"),
        ({"place": {"city": "atlantis"}}, 422, "/place/city"),
        ({"flags": ["no_such_flag"]}, 422, "/flags"),
        ({"elements": {"no_such_element": "x"}}, 422, "/elements"),
        ({"customer": {"phone": "call me"}}, 422, "/customer/phone"),
        ({"content": ""}, 422, "/content"),
        ({"content": 5}, 422, "/content"),
        ({"content": "a\x00b"}, 422, "/content"),
        ({"elements": {"location": "a\x00b"}}, 422, "/elements/location"),
        ({"place": {"city": "jinan", "address": "\x00"}}, 422, "/place/address"),
        ({"customer": {"name": "\x00x"}}, 422, "/customer/name"),
        ({"elements": {"amount": 10**400}}, 422, "/elements/amount"),
        ({"occurred_at": "0001-01-01T00:00:00+14:00"}, 422, "/occurred_at"),
        ({"amount": -1}, 422, "/amount"),
        ({"occurred_at": "2026-11-22T10:00:00"}, 422, "/occurred_at"),
        ({"surprise": True}, 422, "/surprise"),
    ],
)
async def test_bad_fields_are_named_and_nothing_is_written(
    app: App, front: httpx.AsyncClient, change: dict[str, Any], status: int, pointer: str
) -> None:
    before = await count(app, "tickets")
    answer = await front.post("/v1/tickets", json=complaint(**change))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert await count(app, "tickets") == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[]", 422),
        (b"\xff\xfe\x00", 400),
        (b'{"content": "' + b"\xc3\x28" + b'"}', 400),
        (b"[" * 100_000, 400),
        (b'{"content": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", 400),
        (json.dumps({"content": "x" * 300_000}).encode(), 413),
        (b'{"content": NaN}', 422),
    ],
    ids=["empty", "cut", "list", "binary", "not utf-8", "deep lists", "deep objects", "too large", "nan"],
)
async def test_bodies_that_are_no_complaint_are_refused(
    app: App, front: httpx.AsyncClient, body: bytes, status: int
) -> None:
    before = await count(app, "tickets")
    answer = await front.post("/v1/tickets", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text[:300]
    assert answer.json()["code"]
    assert await count(app, "tickets") == before


async def test_a_body_without_a_length_is_cut_off_at_the_limit(front: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 65536

    answer = await front.post("/v1/tickets", content=endless(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert sent < 10


async def test_nobody_gets_in_without_a_key(app: App) -> None:
    async with app.client(None) as stranger:
        for headers in ({}, {"Authorization": "Bearer gd_k00000000_wrong"}, {"Authorization": "Basic abc"}):
            answer = await stranger.post("/v1/tickets", json=complaint(), headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
        assert (await stranger.get("/health/live")).status_code == 200
        assert (await stranger.get("/metrics")).status_code == 401


async def test_only_the_front_line_registers(app: App) -> None:
    for role in ("jinan", "reviewer", "callback", "ops"):
        async with app.client(role) as client:
            answer = await client.post("/v1/tickets", json=complaint())
            assert (answer.status_code, answer.json()["code"]) == (403, "role_not_allowed")


async def test_pages_go_from_the_newest_to_the_oldest_without_gaps(front: httpx.AsyncClient) -> None:
    made = [(await front.post("/v1/tickets", json=complaint())).json()["ticket_no"] for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await front.get("/v1/tickets", params=params)).json()
        seen += [item["ticket_no"] for item in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen[:5] == made[::-1]
    assert len(seen) == len(set(seen))
    bad = await front.get("/v1/tickets", params={"cursor": "nonsense!"})
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid_cursor")


async def test_a_customer_is_found_by_phone_without_the_phone_in_a_url(front: httpx.AsyncClient) -> None:
    number = phone()
    ticket = (await front.post("/v1/tickets", json=complaint(customer={"phone": number}))).json()
    found = (await front.post("/v1/tickets:search", json={"phone": "+86 " + number})).json()
    assert [item["ticket_no"] for item in found["items"]] == [ticket["ticket_no"]]


async def test_an_open_ticket_of_the_same_customer_and_problem_is_named(front: httpx.AsyncClient) -> None:
    number = phone()
    body = complaint(customer={"phone": number})
    first, second = [(await front.post("/v1/tickets", json=body)).json() for _ in range(2)]
    shown = (await front.get(second["links"]["self"])).json()["ticket"]
    assert shown["open_duplicate"]["ticket_no"] == first["ticket_no"]


async def test_withdrawal_and_answer_end_a_ticket_once(front: httpx.AsyncClient) -> None:
    ticket = (await front.post("/v1/tickets", json=complaint())).json()
    path = ticket["links"]["self"]
    headers = {"Idempotency-Key": f"withdraw-{ticket['ticket_no']}"}
    answers = [await front.post(f"{path}/withdraw", json={"reason": "已解决"}, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    late = await front.post(f"{path}/answer", json={"answer": "已答复"})
    assert (late.status_code, late.json()["code"]) == (409, "ticket_not_answerable")
    early = await front.post(f"{path}/supplement", json={"note": "x"})
    assert (early.status_code, early.json()["code"]) == (409, "ticket_not_returned")


async def test_unknown_tickets_are_404(front: httpx.AsyncClient) -> None:
    for reference in ("T20261122-9999999", "00000000-0000-7000-8000-000000000000", "not-a-ticket-number"):
        answer = await front.get(f"/v1/tickets/{reference}")
        assert (answer.status_code, answer.json()["code"]) == (404, "ticket_not_found")

"""A complaint is taken or refused in the same words whether FastAPI's route or the lane in front of it answers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from services.intake.app import build
from services.intake.settings import Settings
from tests.support.apps import App, random_key, running_app
from tests.support.hostile import NUMBERS, SHAPES, TEXTS, hostile_json, sample
from tests.support.parts import Databases
from tests.support.tickets import complaint

FAST = "application/json"
SLOW = "application/json; charset=UTF-8"
"""The lane knows it in small letters only."""
AT_ONCE = 8
CASES = 400
DIFFER = ("trace_id", "ticket_no", "accepted_at", "submitted_at", "open_duplicate")


@pytest_asyncio.fixture(scope="module")
async def app(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    url, folder = await databases.fresh("intake"), tmp_path_factory.mktemp("fast_post")
    async with running_app(build, Settings, url, folder, data_key=random_key(), index_key=random_key()) as running:
        yield running


async def told(app: App, body: bytes, media: str, **headers: str) -> tuple[int, Any]:
    """Status, and the problem; or of a ticket that was taken, what others may see of it."""
    async with app.client("supervisor") as client:
        given = {"Content-Type": media} | headers
        answer = await client.post("/v1/tickets", content=body, headers=given)
        found = orjson.loads(answer.content)
        if answer.status_code == 201:
            found = (await client.get(found["links"]["self"])).json()["ticket"]
        return answer.status_code, {name: value for name, value in found.items() if name not in DIFFER}


async def check(app: App, bodies: list[bytes]) -> set[int]:
    gate, statuses = asyncio.Semaphore(AT_ONCE), set()

    async def one(body: bytes) -> None:
        async with gate:
            fast, slow = await told(app, body, FAST), await told(app, body, SLOW)
        assert fast == slow, body[:500]
        statuses.add(fast[0])

    await asyncio.gather(*map(one, bodies))
    return statuses


async def test_spoilt_complaints_get_the_same_answer_both_ways(app: App) -> None:
    good = complaint(amount=12.5, occurred_at="2026-11-22T09:00:00Z", flags=["media_risk"])
    assert {201, 400, 422} <= await check(app, sample(hostile_json(good), CASES))


async def test_numbers_names_and_doubled_keys_mean_the_same_both_ways(app: App) -> None:
    good = complaint(amount=0.1, place={"city": "jinan", "longitude": 117, "latitude": 36.5}, elements={"since": 1.0})
    text = orjson.dumps(good)
    bodies = [text[:-1] + b',"amount":' + token + b"}" for token in (*NUMBERS, b"12.10", b"1e2", b'"7.50"', b"0.105")]
    bodies += [text[:-1] + b',"elements":{"since":' + token + b"}}" for token in (*NUMBERS, *TEXTS, *SHAPES, b"1.50")]
    bodies += [text[:-1] + b',"kind":"consultation","kind":"complaint"}', text[:-1] + b',"kind":"nothing"}']
    bodies += [text[:-1] + b',"elements":{"since":"a","since":"b"}}', b" \n" + text + b"\t"]
    bodies += [text.replace(b'"kind"', rb'"k\u0069nd"'), text.decode().encode("utf-16"), text.decode().encode("utf-32")]
    assert {201, 400, 422} <= await check(app, bodies)


async def test_a_key_means_the_same_both_ways(app: App) -> None:
    body = orjson.dumps(complaint())
    async with app.client("front_line") as client:
        answers = [
            await client.post("/v1/tickets", content=body, headers={"Content-Type": media, "Idempotency-Key": "both"})
            for media in (FAST, SLOW, FAST)
        ]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    for key in ("a b", "x" * 256):
        fast, slow = [await told(app, body, media, **{"Idempotency-Key": key}) for media in (FAST, SLOW)]
        assert fast == slow
        assert fast[0] == 422


async def test_who_is_not_let_in_hears_the_same_both_ways(app: App) -> None:
    for role in (None, "jinan", "website"):
        async with app.client(role) as client:
            fast, slow = [
                await client.post("/v1/tickets", json=complaint(), headers={"Content-Type": media})
                for media in (FAST, SLOW)
            ]
        assert fast.status_code == slow.status_code in (401, 403)
        assert fast.headers.keys() == slow.headers.keys()
        assert [answer.json()["code"] for answer in (fast, slow)] == [fast.json()["code"]] * 2


async def test_a_request_is_counted_once_and_charged_once_both_ways(app: App) -> None:
    async with app.client("front_line") as client, app.client("ops") as ops:

        async def posted() -> float:
            lines = (await ops.get("/metrics")).text.splitlines()
            name = 'gongdan_http_requests_total{method="POST",route="/v1/tickets",status="201"}'
            return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

        before, left = await posted(), []
        for media in (FAST, SLOW):
            answer = await client.post("/v1/tickets", json=complaint(), headers={"Content-Type": media})
            left.append(int(answer.headers["ratelimit"].split("r=")[1].split(";")[0]))
        assert await posted() == before + 2
        assert left[0] - left[1] <= 1

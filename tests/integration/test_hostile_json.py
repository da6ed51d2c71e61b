"""The JSON edge of each service: whatever a body holds, the answer is a 2xx or a problem document of the 4xx."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from hypothesis import strategies as st

from shared.http.problems import MEDIA_TYPE
from tests.support.apps import App, random_key, running_app
from tests.support.hostile import NUMBERS, SHAPES, TEXTS, hostile_json, sample
from tests.support.parts import Databases
from tests.support.tickets import complaint

CASES = 400
AT_ONCE = 8
REFERENCE = "T20261122-0000012"

REPLY = {
    "process": "x",
    "content": "x",
    "satisfaction": "satisfied",
    "replier": "x",
    "replied_at": "2026-11-22T09:00:00Z",
}
# Service → method, path and a good body of each route that takes one; a ticket of this number need not exist.
ROUTES: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "intake": [
        ("POST", "/v1/tickets", complaint(amount=12.5, occurred_at="2026-11-22T09:00:00Z", flags=["media_risk"])),
        ("POST", f"/v1/tickets/{REFERENCE}/supplement", {"elements": {"since": 1, "location": None}, "note": "x"}),
        ("POST", "/v1/tickets:search", {"phone": "13800000000"}),
    ],
    "review": [
        ("POST", "/v1/reviews:claim", {"count": 1}),
        ("POST", f"/v1/reviews/{REFERENCE}/return", {"reason_code": "RT_OTHER", "missing": ["since"], "note": "x"}),
    ],
    "dispatch": [("POST", f"/v1/orders/{REFERENCE}/reply", REPLY)],
    "sla": [("PUT", "/v1/calendar/2026-10-10", {"working": True, "source": "x"})],
}
BODIES = (
    b"",
    b" ",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"\x00",
    b"{} {}",
    b"{'a': 1}",
    b"\xed\xa0\x80",
    b"{" * 9,
)


@pytest_asyncio.fixture(scope="module", params=sorted(ROUTES))
async def app(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, App]]:
    service: str = request.param
    build = importlib.import_module(f"services.{service}.app").build
    settings = importlib.import_module(f"services.{service}.settings").Settings
    secrets = {"data_key": random_key(), "index_key": random_key()} if service == "intake" else {}
    url = await databases.fresh(service)
    async with running_app(build, settings, url, tmp_path_factory.mktemp(service), **secrets) as running:
        yield service, running


async def answers(app: App, method: str, path: str, bodies: list[bytes], media: str = "application/json") -> list[Any]:
    """The answers to these bodies, a few at once."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with app.client("supervisor") as client:

        async def one(body: bytes) -> Any:
            async with gate:
                return await client.request(
                    method, path, content=body, headers={b"Content-Type": media.encode("latin-1")}
                )

        return await asyncio.gather(*(one(body) for body in bodies))


def check(found: list[Any], bodies: list[bytes]) -> None:
    for answer, body in zip(found, bodies, strict=True):
        assert answer.status_code < 500, (answer.status_code, answer.text[:300], body[:300])
        if answer.status_code >= 300:
            assert answer.headers["content-type"] == MEDIA_TYPE, body[:300]
            problem = orjson.loads(answer.content)
            assert problem["status"] == answer.status_code
            assert len(answer.content) < 20_000, "an error does not give a large body back"


async def test_spoilt_bodies_are_taken_or_refused_and_never_our_fault(app: tuple[str, App]) -> None:
    service, running = app
    for method, path, good in ROUTES[service]:
        bodies: list[bytes] = sample(hostile_json(good), CASES // len(ROUTES[service]))
        found = await answers(running, method, path, bodies)
        check(found, bodies)
        assert any(answer.status_code in (400, 422) for answer in found)


async def test_bodies_that_are_no_object_and_every_token_in_every_field(app: tuple[str, App]) -> None:
    service, running = app
    for method, path, good in ROUTES[service]:
        bodies = [*BODIES, *NUMBERS, *TEXTS, *SHAPES]
        for name in good:
            rest = orjson.dumps({key: value for key, value in good.items() if key != name})[:-1]
            start = rest + (b"," if len(good) > 1 else b"") + orjson.dumps(name) + b":"
            bodies += [start + token + b"}" for token in (*NUMBERS, *TEXTS, *SHAPES)]
        check(await answers(running, method, path, bodies), bodies)


@pytest.mark.parametrize(
    "media", ["text/plain", "application/xml", "application/json; charset=utf-16", "", "x", "\xff"]
)
async def test_another_media_type_is_refused_or_read_as_json(app: tuple[str, App], media: str) -> None:
    service, running = app
    for method, path, good in ROUTES[service]:
        bodies = [orjson.dumps(good), b"<a/>"]
        check(await answers(running, method, path, bodies, media), bodies)


@pytest.mark.parametrize("header", ["Idempotency-Key", "traceparent", "Accept", "X-Request-Id"])
async def test_spoilt_headers_are_never_our_fault(app: tuple[str, App], header: str) -> None:
    service, running = app
    method, path, good = ROUTES[service][0]
    values = sample(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60), 40)
    async with running.client("supervisor") as client:
        for value in values:
            answer = await client.request(method, path, json=good, headers={header: value.encode("latin-1")})
            check([answer], [value.encode()])

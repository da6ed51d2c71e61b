"""The lane in front of FastAPI: what it answers itself, and that whatever it does not is handed on whole."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from shared.errors import Conflict
from shared.http.auth import ENTERED, Principal, allow
from shared.http.fast_post import FastPost
from shared.http.keys import Role

PRINCIPAL = Principal("k", Role.front_line, "n", None, "c")
PLAIN = ((b"content-type", b"application/json"), (b"idempotency-key", b"once"))
GOOD = b'{"number": 1}'


class Gate(allow):
    """Lets everybody in."""

    async def enter(self, http: HTTPConnection) -> Principal:
        return PRINCIPAL


class Numbered(BaseModel):
    number: int


class Lane:
    """A lane whose work and whose app behind it write down what they get."""

    def __init__(self) -> None:
        self.worked: list[Any] = []
        self.behind: list[Any] = []
        self.fails: Exception | None = None
        self.lane = FastPost(self._behind, path="/x", gate=Gate(Role.front_line), model=Numbered, work=self._work)

    async def _work(self, principal: Principal, body: Numbered, raw: bytes, key: str | None) -> bytes:
        if self.fails is not None:
            raise self.fails
        self.worked.append((principal, body.number, raw, key))
        return b"done"

    async def _behind(self, scope: Any, receive: Any, send: Any) -> None:
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        self.behind.append((scope.get(ENTERED), messages))

    async def post(self, *parts: bytes, headers: Any = PLAIN, path: str = "/x", method: str = "POST") -> list[Any]:
        sent: list[Any] = []
        scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
        coming = self._messages(parts)

        async def send(message: Any) -> None:
            sent.append(message)

        await self.lane(scope, coming.__anext__, send)
        return sent

    async def _messages(self, parts: tuple[bytes, ...]) -> AsyncIterator[Any]:
        for number, part in enumerate(parts, 1):
            yield {"type": "http.request", "body": part, "more_body": number < len(parts) or part == b"cut"}
        yield {"type": "http.disconnect"}


async def test_a_plain_request_is_answered_without_the_app_behind() -> None:
    lane = Lane()
    start, body = await lane.post(GOOD)
    assert (start["status"], body["body"]) == (201, b"done")
    assert dict(start["headers"]) == {b"content-length": b"4", b"content-type": b"application/json"}
    await lane.post(GOOD[:5], GOOD[5:], headers=PLAIN[:1])
    assert lane.worked == [(PRINCIPAL, 1, GOOD, "once"), (PRINCIPAL, 1, GOOD, None)]
    assert lane.behind == []


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"content-type", b"text/plain"),),
        ((b"content-type", b"application/json"),) * 2,
        (*PLAIN, (b"idempotency-key", b"twice")),
        (PLAIN[0], (b"idempotency-key", b"a b")),
        (PLAIN[0], (b"idempotency-key", b"x\n")),
        (PLAIN[0], (b"idempotency-key", b"")),
        (PLAIN[0], (b"idempotency-key", b"x" * 256)),
    ],
)
async def test_what_is_not_plain_is_handed_on_with_its_body_and_its_caller(headers: Any) -> None:
    lane = Lane()
    await lane.post(GOOD[:5], GOOD[5:], headers=headers)
    assert lane.worked == []
    assert lane.behind == [(PRINCIPAL, [{"type": "http.request", "body": GOOD, "more_body": False}])]


@pytest.mark.parametrize("body", [b"", b"{", b'{"number": "x"}', b'\xef\xbb\xbf{"number": 1}'])
async def test_a_body_that_does_not_validate_is_handed_on(body: bytes) -> None:
    lane = Lane()
    await lane.post(body)
    assert lane.behind == [(PRINCIPAL, [{"type": "http.request", "body": body, "more_body": False}])]


async def test_a_client_that_goes_away_in_its_body_is_handed_on_as_gone() -> None:
    lane = Lane()
    assert await lane.post(b"cut") == []
    assert [message["type"] for _, messages in lane.behind for message in messages] == ["http.disconnect"]


async def test_another_path_or_method_goes_straight_through() -> None:
    lane = Lane()
    await lane.post(GOOD, path="/y")
    await lane.post(GOOD, method="GET")
    assert [entered for entered, _ in lane.behind] == [None, None]


async def test_what_the_work_refuses_is_a_problem_and_nobody_is_asked_again() -> None:
    lane = Lane()
    lane.fails = Conflict("taken", "it is taken")
    start, body = await lane.post(GOOD)
    assert start["status"] == 409
    assert b'"code":"taken"' in body["body"]
    assert lane.behind == []
    lane.fails = LookupError("ours")
    with pytest.raises(LookupError):
        await lane.post(GOOD)

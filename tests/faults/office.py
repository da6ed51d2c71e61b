"""HTTP as the people of a run use it: every change is journalled before it is sent, and repeated with its key until the
answer is certain.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.faults.journal import Journal, Outcome

ANSWER_SECONDS = 4.0
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 2.0
# Neither yes nor no: the service asks to come again, or says nothing about what it did.
TRY_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Answer:
    """A certain answer. `body` is the parsed JSON."""

    outcome: Outcome
    status: int
    body: Any

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"


@dataclass(frozen=True)
class Person:
    """Who asks: a role of the keys in `run.json`, or a branch."""

    name: str
    role: str
    branch: str | None = None


class Office:
    """All requests of a run. `run` is the content of `run.json`."""

    def __init__(self, run: Mapping[str, Any], journal: Journal, label: str) -> None:
        self._run = run
        self._journal = journal
        self._label = label
        self._numbers = itertools.count(1)
        self._clients: dict[str, httpx.AsyncClient] = {}

    def _client(self, person: Person) -> httpx.AsyncClient:
        """Each person has connections of his own, as different machines would."""
        if person.name not in self._clients:
            keys = self._run["branch_keys"] if person.branch else self._run["keys"]
            self._clients[person.name] = httpx.AsyncClient(
                headers={"Authorization": f"Bearer {keys[person.branch or person.role]}"},
                timeout=ANSWER_SECONDS,
                limits=httpx.Limits(max_connections=100, keepalive_expiry=10),
                trust_env=False,
            )
        return self._clients[person.name]

    def _url(self, service: str, path: str) -> str:
        return f"{self._run['services'][service]['url']}{path}"

    def fresh_key(self, person: Person) -> str:
        return f"{self._label}-{person.name}-{next(self._numbers)}"

    async def read(self, person: Person, service: str, path: str, **query: str | int) -> Any:
        """What a GET answers, or None while nobody answers: looking again costs nothing."""
        try:
            answer = await self._client(person).get(self._url(service, path), params=query)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.is_success else None

    async def do(
        self,
        person: Person,
        action: str,
        service: str,
        path: str,
        body: Any = None,
        *,
        ticket: str | None = None,
        canaries: Sequence[str] = (),
    ) -> Answer:
        """One change, repeated with one key until somebody says yes or no."""
        key, pause = self.fresh_key(person), FIRST_PAUSE_SECONDS
        while True:
            number = await self._journal.sent(person.name, action, key, ticket, canaries)
            answer = await self._try(person, number, self._url(service, path), body, key)
            if answer is not None:
                return answer
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    async def _try(self, person: Person, number: int, url: str, body: Any, key: str) -> Answer | None:
        """One request; None when its outcome is unknown."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                sent = await self._client(person).post(url, json=body, headers={"Idempotency-Key": key})
            content = sent.json()
        except (httpx.HTTPError, TimeoutError, ValueError) as silence:
            await self._journal.done(number, "unknown", code=type(silence).__name__)
            return None
        status = sent.status_code
        outcome: Outcome = "ok" if sent.is_success else "failed"
        if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in TRY_AGAIN:
            outcome = "unknown"
        await self._journal.done(
            number,
            outcome,
            status=status,
            ticket_id=content.get("ticket_id"),
            ticket_no=content.get("ticket_no"),
            code=content.get("code"),
        )
        return None if outcome == "unknown" else Answer(outcome, status, content)

    async def close(self) -> None:
        for client in list(self._clients.values()):
            await client.aclose()

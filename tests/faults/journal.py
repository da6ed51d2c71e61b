"""The journal: what the people of a run asked for and what they were told, one JSON line before and one after.

A line is on disk before `sent` or `done` returns, so that a request is never out before it is written down. The lines
are a contract with the checker. `outcome` is `ok` (2xx, or the broker's acknowledgement), `failed` (a certain no) or
`unknown` (no answer, or one that proves nothing); an unknown is repeated with its key until it is one of the others.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["ok", "failed", "unknown"]


class Journal:
    """Writes of requests that come together share one fsync. For one event loop."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._number = 0
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def sent(
        self, actor: str, action: str, key: str, ticket: str | None = None, canaries: Sequence[str] = ()
    ) -> int:
        """Note a request that is about to leave; its number in the journal."""
        self._number += 1
        number = self._number
        about = {"actor": actor, "action": action, "key": key, "ticket": ticket, "canaries": list(canaries)}
        await self._write({"n": number, "at": _now(), "phase": "sent", **about})
        return number

    async def done(
        self,
        number: int,
        outcome: Outcome,
        *,
        status: int | None = None,
        ticket_id: str | None = None,
        ticket_no: str | None = None,
        code: str | None = None,
    ) -> None:
        """Note what became of a request. `code` is the problem's code, or the kind of silence."""
        answer = {"outcome": outcome, "status": status, "ticket_id": ticket_id, "ticket_no": ticket_no, "code": code}
        await self._write({"n": number, "at": _now(), "phase": "done", **answer})

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer
        os.close(self._descriptor)

    async def _write(self, line: dict[str, Any]) -> None:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((json.dumps(line, ensure_ascii=False).encode() + b"\n", stored))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._drain())
        await stored

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await asyncio.to_thread(self._store, b"".join(line for line, _ in batch))
            for _, stored in batch:
                if not stored.cancelled():
                    stored.set_result(None)

    def _store(self, lines: bytes) -> None:
        os.write(self._descriptor, lines)
        os.fsync(self._descriptor)


@dataclass
class Attempt:
    """One request as the journal has it. `ended` and `outcome` are None when its end was never written."""

    number: int
    began: datetime
    actor: str
    action: str
    key: str
    ticket: str | None
    canaries: tuple[str, ...] = field(repr=False)
    ended: datetime | None = None
    outcome: Outcome | None = None
    status: int | None = None
    code: str | None = None


def read_journal(path: Path) -> list[Attempt]:
    """Every request in the order of its sending."""
    attempts: dict[int, Attempt] = {}
    for line in _lines(path):
        at = datetime.fromisoformat(line["at"])
        if line["phase"] == "sent":
            about = {name: line[name] for name in ("actor", "action", "key", "ticket")}
            attempts[line["n"]] = Attempt(line["n"], at, **about, canaries=tuple(line["canaries"]))
        else:
            attempt = attempts[line["n"]]
            attempt.ended, attempt.outcome = at, line["outcome"]
            attempt.status, attempt.code = line["status"], line["code"]
    return list(attempts.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _now() -> str:
    return datetime.now(UTC).isoformat()

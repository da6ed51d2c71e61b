"""The journal is on disk before anything leaves, and reads back as what happened."""

import asyncio
import json
from datetime import datetime
from pathlib import Path

from tests.faults.journal import Journal, read_journal


async def test_a_request_is_on_disk_before_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    number = await journal.sent("front_line", "register", "k-1", canaries=["13900000001", "欧阳瑾"])
    line = json.loads(path.read_text(encoding="utf-8"))
    assert datetime.fromisoformat(line.pop("at")).tzinfo is not None
    assert line == {
        "n": number,
        "phase": "sent",
        "actor": "front_line",
        "action": "register",
        "key": "k-1",
        "ticket": None,
        "canaries": ["13900000001", "欧阳瑾"],
    }
    await journal.done(number, "ok", status=201, ticket_id="id", ticket_no="no")
    await journal.close()
    done = json.loads(path.read_text(encoding="utf-8").splitlines()[1])
    assert {name: done[name] for name in ("n", "phase", "outcome", "status", "ticket_id", "ticket_no", "code")} == {
        "n": number,
        "phase": "done",
        "outcome": "ok",
        "status": 201,
        "ticket_id": "id",
        "ticket_no": "no",
        "code": None,
    }


async def test_requests_side_by_side_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    numbers = await asyncio.gather(*(journal.sent("front_line", "register", f"k-{each}") for each in range(50)))
    await asyncio.gather(*(journal.done(number, "failed", status=422) for number in numbers[:25]))
    await journal.close()
    attempts = read_journal(path)
    assert [attempt.number for attempt in attempts] == sorted(numbers)
    assert len({attempt.number for attempt in attempts}) == 50
    ended = {attempt.key: attempt.outcome for attempt in attempts}
    assert [ended[f"k-{each}"] for each in range(50)] == ["failed"] * 25 + [None] * 25

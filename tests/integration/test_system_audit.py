"""The audit of a running system, on each broker: silent on a true state, and it sees what is wrong on the log."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.audit.__main__ import CANNOT, audit, main
from deploy.audit.databases import read_only
from deploy.audit.report import BROKEN, HOLDS, as_json, as_text, exit_code
from shared.contracts.topics import branch_topic
from shared.ids import new_id
from tests.support.messaging import NOW
from tests.support.played import Played, broken, found, played_to_the_end, send
from tests.support.tickets import complaint

__all__ = ["played_to_the_end"]

PHONE = "13912345678"
JINAN, QINGDAO = branch_topic("jinan"), branch_topic("qingdao")


async def test_a_true_state_holds_in_every_respect(played: Played) -> None:
    results = await found(played.world.options)
    assert broken(results) == {}
    assert [number for number, findings in results.items() if findings.postponed] == []
    assert all(findings.checked > 0 for findings in results.values())


def journal(path: Path, *tries: dict[str, Any]) -> Path:
    """Each try as a `sent` line, and a `done` line where it has an outcome."""
    lines = []
    for n, one in enumerate(tries):
        lines.append({"n": n, "at": NOW.isoformat(), "phase": "sent", "canaries": []} | one)
        if "outcome" in one:
            lines.append({"n": n, "at": NOW.isoformat(), "phase": "done"} | one)
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


async def test_what_the_journal_says_was_promised_is_compared(played: Played, tmp_path: Path) -> None:
    """`register-0` is the ticket that was closed; the others were registered too, whatever the journal says."""
    lost, command = str(new_id()), str(new_id())
    told = journal(
        tmp_path / "journal.jsonl",
        {"action": "register", "key": "register-0", "outcome": "ok", "ticket_id": played.closed},
        {"action": "register", "key": "register-1"},
        {"action": "register", "key": "register-2", "outcome": "failed"},
        {"action": "register", "key": "register-3", "outcome": "ok", "ticket_id": lost},
        {"action": "register", "key": "never-seen", "outcome": "failed"},
        {"action": "command", "key": command, "outcome": "ok"},
    )
    results = await found(dataclasses.replace(played.world.options, journal=told))
    assert set(broken(results)) == {1}
    texts = sorted(results[1].shown)
    assert [text.partition(":")[0] for text in texts] == [
        "a command that was neither carried out nor refused",
        "answered ok, and the ticket is not there",
        "failed, and yet it was done",
        "one key, several tickets",
    ]
    assert command in texts[0]
    assert lost in texts[1]
    assert "register-2" in texts[2]
    assert "register-3" in texts[3]


async def test_logs_are_searched_and_the_value_is_not_repeated(played: Played, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "intake.log").write_text(f'all is well\n{{"message": "called {PHONE}"}}\n')
    results = await found(dataclasses.replace(played.world.options, logs=logs))
    assert broken(results) == {11: [f"a mobile number in {logs / 'intake.log'}:2"]}


async def test_the_command_says_by_its_code_what_it_found(
    played: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bootstrap", played.world.bootstrap]
    for service, url in played.world.databases.items():
        words += ["--database", f"{service}={url}"]
    assert await asyncio.to_thread(main, words) == HOLDS
    assert "all hold" in capsys.readouterr().out
    told = journal(tmp_path / "j", {"action": "register", "key": "register-2", "outcome": "failed"})
    assert await asyncio.to_thread(main, [*words, "--json", "--journal", str(told)]) == BROKEN
    assert json.loads(capsys.readouterr().out)["invariants"][0]["breaches"] == 1
    assert await asyncio.to_thread(main, ["--bootstrap", "127.0.0.1:1", *words[2:]]) == CANNOT
    assert "cannot check" in capsys.readouterr().err


async def test_its_sessions_cannot_write(played: Played) -> None:
    async with read_only(played.world.databases["intake"]) as connection:
        with pytest.raises(Exception, match="read-only transaction"):
            await connection.execute("DELETE FROM tickets")


async def test_a_moving_system_is_not_called_broken(played: Played) -> None:
    """A ticket is in the outbox and nothing publishes it: what services say of each other is not compared."""
    await played.world.post("intake", "front_line", "/v1/tickets", complaint())
    try:
        evidence, results = await audit(played.world.options)
        assert evidence.scope.unrest == "intake has 1 events to publish"
        assert exit_code(results) == HOLDS
        assert {invariant.number for invariant, each in results if each.postponed} == {2, 3, 4, 8, 9}
        assert "not quiet" in as_text(evidence.scope, results)
        assert json.loads(as_json(evidence.scope, results))["quiet"] is False
        evidence.close()
        _, results = await audit(dataclasses.replace(played.world.options, quiet_seconds=1.0))
        (effects,) = [each for invariant, each in results if invariant.number == 4]
        assert [text.partition(" row")[0] for text in effects.shown] == ["intake: outbox"]
    finally:
        async with played.world.running():
            await played.rest()
        await played.world.disconnect()


async def test_what_is_wrong_on_the_log_is_named(played: Played) -> None:
    async with read_only(played.world.databases["dispatch"]) as connection:
        row = await connection.fetchrow(
            "SELECT event_id::text, payload, version FROM outbox WHERE topic = $1 AND subject = $2::text::uuid",
            *(JINAN, played.closed),
        )
    event, payload = row["event_id"], bytes(row["payload"])

    def headers(event_id: str, version: int) -> list[tuple[str, bytes]]:
        said = {"ce_id": event_id, "ce_subject": played.closed, "ce_source": "/gongdan/dispatch"}
        return [(name, value.encode()) for name, value in {**said, "ce_sequence": str(version)}.items()]

    stray = await send(played.world, QINGDAO, payload, headers(event, 1))
    unknown = await send(played.world, JINAN, payload, headers(str(new_id()), 1))
    altered = await send(played.world, JINAN, payload + b" ", headers(event, 0))
    leak = await send(played.world, JINAN, PHONE.encode(), [], key=PHONE)
    orphan = await send(played.world, "gongdan.sla.dlq", b"", [("dead_service", b"review")])
    results = await found(dataclasses.replace(played.world.options, copies=0))
    assert set(broken(results)) == {5, 6, 8, 11}
    of_branches = "\n".join(results[6].shown)
    assert f"another branch's record: topic {QINGDAO}, partition 0, offset {stray}" in of_branches
    assert f"a record that was never published: topic {JINAN}, partition 0, offset {unknown}" in of_branches
    assert f"a copy that differs: topic {JINAN}, partition 0, offset {altered}" in of_branches
    assert f"more copies than faults explain: topic {JINAN}, event {event}, copies 2" in of_branches
    assert [played.closed in text for text in results[5].shown] == [True]
    assert results[11].shown == [f"a mobile number in topic {JINAN}/0 offset {leak}"] * 2
    assert f"offset {orphan}" in results[8].shown[0]

"""The operators' console as operators run it: a process of its own against the running stack."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import INTAKE
from shared.ids import UUID, new_id
from tests.support.journey import finish, register, until, wait_for_status
from tests.support.messaging import NOW
from tests.support.stack import PROJECT, RunningStack
from tests.support.tickets import complaint

DONE, NOT_DONE, USAGE, NOT_REACHED = 0, 1, 2, 3


def console(stack: RunningStack, *words: str, expect: int = DONE) -> str:
    """What it prints; its exit code must be the expected one."""
    return run("--run-file", str(stack.data / "run.json"), *words, expect=expect)


def run(*words: str, expect: int) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.console", *words], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == expect, f"{words}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def run_refused(stack: RunningStack, *words: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.console", "--run-file", str(stack.data / "run.json"), *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == NOT_DONE
    return ran.stderr


def told(stack: RunningStack, *words: str, expect: int = DONE) -> Any:
    return json.loads(console(stack, "--json", *words, expect=expect))


async def send_damaged(stack: RunningStack, ticket: UUID, version: int) -> None:
    """An event of intake that nobody can read."""
    sender = AIOKafkaProducer(bootstrap_servers=stack.bootstrap, acks="all")
    await sender.start()
    envelope = Envelope(new_id(), "/gongdan/intake", TicketWithdrawn.TYPE, ticket, NOW, version)
    await sender.send_and_wait(
        INTAKE, key=str(ticket).encode(), value='{"回访": "13912345678"'.encode(), headers=envelope.headers()
    )
    await sender.stop()


async def test_the_console_finds_and_settles_a_dead_letter(stack: RunningStack) -> None:
    ticket = register(stack, complaint())
    wait_for_status(stack, ticket["ticket_no"], "dispatched")
    states = told(stack, "status")
    assert set(states) == {"intake", "review", "dispatch", "sla"}
    assert {state["readiness"]["status"] for state in states.values()} == {"ready"}
    assert all(state["figures"]["dead_open"] == 0 for state in states.values())

    await send_damaged(stack, UUID(ticket["ticket_id"]), 2)
    [letter] = until(lambda: told(stack, "dead", "list", "sla", "--state", "open")["dead_letters"])
    assert (letter["type"], letter["version"], letter["key"]) == ("ticket.withdrawn", 2, ticket["ticket_id"])
    number = str(letter["id"])
    shown = console(stack, "dead", "show", "sla", number)
    assert "139****5678" in shown
    assert "13912345678" not in shown
    assert "13912345678" not in console(stack, "dead", "show", "sla", number, "--raw")

    failed = told(stack, "dead", "redrive", "sla", number, "--reason", "try it", expect=NOT_DONE)
    assert (failed["results"][0]["state"], "wrong form" in failed["results"][0]["detail"]) == ("open", True)
    given_up = told(stack, "dead", "discard", "sla", number, "--reason", "made by a test")
    assert given_up["results"][0]["state"] == "discarded"
    until(lambda: any("dead letters" in line for line in console(stack, "status").splitlines()))
    for other in ("review", "dispatch"):
        [open_one] = told(stack, "dead", "list", other, "--state", "open")["dead_letters"]
        console(stack, "dead", "discard", other, str(open_one["id"]), "--reason", "made by a test")
    until(lambda: all(state["figures"]["dead_open"] == 0 for state in told(stack, "status").values()))


def test_a_paused_reader_says_so_and_goes_on_when_resumed(stack: RunningStack) -> None:
    console(stack, "pause", "review", INTAKE, "--reason", "trying the console")
    assert told(stack, "status")["review"]["figures"]["paused"][0]["reason"] == "trying the console"
    warning = "paused the reading of gongdan.intake: trying the console"
    until(lambda: any(warning in text for text in told(stack, "status")["review"]["readiness"]["warnings"]))
    ticket = register(stack, complaint())
    until(lambda: any(each["lag"] for each in told(stack, "positions", "review")["positions"]))
    console(stack, "resume", "review", INTAKE, "--reason", "tried")
    wait_for_status(stack, ticket["ticket_no"], "dispatched")
    console(stack, "resume", "review", INTAKE, "--reason", "nothing is paused", expect=NOT_DONE)


def test_a_replay_of_one_ticket_reaches_everybody_and_changes_nothing(stack: RunningStack) -> None:
    ticket = register(stack, complaint())
    wait_for_status(stack, ticket["ticket_no"], "dispatched")
    assert told(stack, "replay", "intake", "--ticket", ticket["ticket_no"], "--reason", "trying it")["marked"] == 1
    until(lambda: told(stack, "status")["intake"]["figures"]["backlog"] == 0)
    assert "0 events" in console(
        stack, "replay", "intake", "--since", "2099-01-01T00:00:00Z", "--reason", "nothing is that new"
    )
    assert told(stack, "parked", "sla")["parked"] == []
    assert wait_for_status(stack, ticket["ticket_no"], "dispatched")


async def test_a_rebuilt_picture_is_the_living_one_and_repairs_what_was_damaged(stack: RunningStack) -> None:
    tickets = [register(stack, complaint()) for _ in range(4)]
    closed, withdrawn, supplemented, damaged = (ticket["ticket_no"] for ticket in tickets)
    for number in (closed, withdrawn, supplemented, damaged):
        wait_for_status(stack, number, "dispatched")
    finish(stack, closed, "jinan")
    wait_for_status(stack, closed, "closed")
    give_back_and_supplement(stack, supplemented)
    with stack.client("front_line", "intake") as front:
        assert front.post(f"/v1/tickets/{withdrawn}/withdraw", json={"reason": "settled"}).status_code == 200
    check = ("rebuild", "intake", "--check", "--reason", "monthly check")
    whole = until(lambda: (found := told(stack, *check))["moving"] == 0 and found)
    assert (whole["differences"], whole["incomplete"]) == (0, 0)
    assert whole["compared"] >= 4

    database = await asyncpg.connect(stack.facts["databases"]["intake"].replace("+asyncpg", ""))
    await database.execute(
        "UPDATE tickets SET order_status = 'closed', branch = NULL, closed_at = now() WHERE ticket_no = $1", damaged
    )
    await database.execute(
        "DELETE FROM ticket_timeline WHERE type = 'review.approved'"
        " AND ticket_id = (SELECT ticket_id FROM tickets WHERE ticket_no = $1)",
        damaged,
    )
    found = told(stack, *check, expect=NOT_DONE)
    assert found["different"] == [
        {"subject": tickets[3]["ticket_id"], "what": ["branch", "closed_at", "order_status", "timeline"]}
    ]
    repaired = told(stack, "rebuild", "intake", "--apply", "--reason", "damaged by a test")
    assert (repaired["differences"], repaired["replaced"]) == (1, 1)
    assert told(stack, *check)["differences"] == 0
    assert "intact" in console(stack, "audit", "intake")
    row = await database.fetchrow("SELECT branch, order_status FROM tickets WHERE ticket_no = $1", damaged)
    rows = await database.fetch("SELECT action, subject FROM audit_trail WHERE action LIKE 'read_state.%' ORDER BY id")
    assert ("read_state.replaced", tickets[3]["ticket_id"]) in [tuple(each) for each in rows]
    assert rows[-1]["action"] == "read_state.built"
    assert tuple(row) == ("jinan", "dispatched")
    assert await database.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'rebuild'") == 0
    await database.close()
    assert "nothing that comes from events alone" in run_refused(stack, "rebuild", "sla", "--check", "--reason", "r")


def give_back_and_supplement(stack: RunningStack, number: str) -> None:
    """The branch returns the order, review returns the ticket, the front line adds to it, and it is sent again."""
    reason = {"reason_code": "RT_ELEMENTS_INCOMPLETE"}
    with stack.client("branch", "dispatch", "jinan") as branch:
        answer = branch.post(f"/v1/orders/{number}/return", json=reason | {"note": "no address"})
        assert answer.status_code == 200, answer.text
    wait_for_status(stack, number, "in_review")
    with stack.client("reviewer", "review") as reviewer:
        answer = reviewer.post(f"/v1/reviews/{number}/return", json=reason)
        assert answer.status_code == 200, answer.text
    wait_for_status(stack, number, "returned")
    with stack.client("front_line", "intake") as front:
        answer = front.post(f"/v1/tickets/{number}/supplement", json={"content": "二楼更差"})
        assert answer.status_code == 200, answer.text


def test_a_wrong_command_and_a_service_away_have_their_own_exit_codes(stack: RunningStack, tmp_path: Path) -> None:
    assert "examples:" in run("--help", expect=DONE)
    run("dead", expect=USAGE)
    run("--run-file", str(tmp_path / "none.json"), "status", expect=USAGE)
    console(stack, "positions", "nobody", expect=USAGE)
    console(stack, "dead", "show", "sla", "999999999", expect=NOT_DONE)
    key = tmp_path / "key"
    key.write_text("gd_k0_wrong")
    there = f"sla={stack.url('sla')}"
    run("--service", there, "--key-file", str(key), "positions", "sla", expect=NOT_DONE)
    run("--service", "sla=http://127.0.0.1:1", "--key-file", str(key), "status", expect=NOT_REACHED)

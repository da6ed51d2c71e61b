"""The operators' console as operators run it: a process of its own against the running stack."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import INTAKE
from shared.ids import UUID, new_id
from tests.support.journey import register, until, wait_for_status
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
    warned = until(lambda: told(stack, "status")["review"]["readiness"]["warnings"])
    assert warned == ["ops:one-machine run paused the reading of gongdan.intake: trying the console"] or any(
        "paused the reading of gongdan.intake: trying the console" in text for text in warned
    )
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

"""A rulebook, facts of plain tickets, and a short way to play events on them."""

from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from services.sla.domain import clocks
from services.sla.domain.records import ClockRun, Facts, Rulebook
from shared.policy import assess, counts_for_batch, is_vip, problem_of
from tests.unit.policy.tickets import NOW, calendar, pack, ticket

# A Sunday morning in Jinan: elapsed hours run, working time does not.
T0 = NOW
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
STEP = timedelta(microseconds=1)


@cache
def book() -> Rulebook:
    return Rulebook(pack(), calendar())


def facts(number: int = 1, **given: Any) -> Facts:
    """The facts of a new ticket without clocks; `given` goes to the ticket."""
    rules = book().pack
    snapshot = assess(rules, ticket(ticket_no=f"T20261122-{number:07d}", **given))
    return Facts(
        ticket_id=UUID(int=number),
        ticket_no=snapshot.ticket_no,
        customer_key=snapshot.customer.key,
        snapshot=snapshot,
        problem=problem_of(rules, snapshot),
        vip=is_vip(rules, snapshot),
        counts=counts_for_batch(rules, snapshot),
    )


def play(held: Facts, event_type: str, at: datetime, **data: Any) -> None:
    """Let one event act on the clocks, as the consumer does."""
    if event_type == "ticket.reopened":
        held.ended = False
    clocks.carry_out(book(), held, event_type, data, at)
    if event_type in book().pack.terminal_events:
        held.ended = True


def runs(held: Facts, kind: str) -> list[ClockRun]:
    return [run for run in held.runs if run.kind == kind]


def run(held: Facts, kind: str) -> ClockRun:
    """The latest run of a kind."""
    return runs(held, kind)[-1]


def published(held: Facts) -> list[str]:
    """The types of the recorded events, in order."""
    return [str(getattr(item.event, "TYPE", "")) for item in held.pending]

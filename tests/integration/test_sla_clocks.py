"""Clocks on a real database: stops before starts, breaches, outages, the calendar."""

import itertools
import random
from datetime import datetime

import pytest
from sqlalchemy import text

from shared.contracts.dispatch import (
    TicketReopened,
)
from shared.contracts.intake import TicketSupplemented, TicketWithdrawn
from shared.contracts.review import ReviewApproved, ReviewReturned
from shared.errors import NotYet
from tests.support.sla import (
    BASIS,
    HOUR,
    MICROSECOND,
    MINUTE,
    Bench,
    closed,
    event,
    fresh_bench,  # noqa: F401  (the fixture `bench`)
    local,
    registered,
    told,
)
from tests.support.snapshots import PACK


async def test_an_event_before_its_ticket_waits_and_leaves_nothing(bench: Bench) -> None:
    now = await bench.now()
    known, unknown = registered(now), registered(now)
    with pytest.raises(NotYet):
        await bench.apply(known, told(unknown, now))
    assert await bench.one("SELECT (SELECT count(*) FROM complaint_facts) + (SELECT count(*) FROM outbox)") == 0


@pytest.mark.parametrize(("hours", "state"), [(23, "met"), (25, "breached")])
@pytest.mark.parametrize("together", [True, False], ids=["one batch", "batch by batch"])
async def test_a_stop_before_its_start_ends_in_the_same_state(
    bench: Bench, hours: int, state: str, together: bool
) -> None:
    """review returns a ticket and intake supplements it; they publish apart, so sla may read the second first."""
    start = await bench.now() - 40 * HOUR
    ends = []
    for stop_first in (False, True):
        ticket = registered(start)
        snap = ticket.data.ticket
        returned = ReviewReturned(
            ticket_no=snap.ticket_no, round=1, reason_code="RT_OTHER", automatic=True, basis=BASIS, actor="rules"
        )
        given_back = event(returned, ticket.subject, start + HOUR, "review")
        supplemented = event(
            TicketSupplemented(ticket=snap, changed=("content",), actor="a"),
            ticket.subject,
            start + (1 + hours) * HOUR,
            "intake",
        )
        events = [ticket, supplemented, given_back] if stop_first else [ticket, given_back, supplemented]
        await (bench.apply(*events) if together else bench.one_by_one(*events))
        run = await bench.clock(ticket, "supplement")
        ends.append((run.cycle, run.state, run.started_at, run.due_at, run.stopped_at, run.breached_at, run.next_at))
    assert ends[0] == ends[1]
    assert ends[0][1] == state
    await bench.sweep_all()
    assert (await bench.clock(ticket, "supplement")).state == state


async def test_a_breach_is_never_erased(bench: Bench) -> None:
    now = await bench.now()
    ticket = registered(now - 50 * HOUR)
    await bench.apply(ticket)
    await bench.sweep_all()
    before = await bench.clock(ticket, "first_reply")
    assert (before.state, before.due_at) == ("breached", now - 2 * HOUR)
    # The news that the customer was told in time comes only now; then the ticket is closed, reopened and withdrawn.
    await bench.apply(told(ticket, now - 10 * HOUR))
    after = await bench.clock(ticket, "first_reply")
    assert (after.state, after.breached_at, after.next_at) == ("breached", before.breached_at, None)
    number = ticket.data.ticket.ticket_no
    await bench.one_by_one(
        closed(ticket, now - HOUR),
        event(TicketReopened(ticket_no=number, reason="x", round=2, basis=BASIS, actor="a"), ticket.subject, now),
        event(TicketWithdrawn(ticket_no=number, reason="x", actor="a"), ticket.subject, now, "intake"),
    )
    await bench.sweep_all()
    assert (await bench.clock(ticket, "first_reply")).breached_at == before.breached_at
    breaches = [each["clock"]["kind"] for each in await bench.published("clock.breached", ticket.subject)]
    assert breaches.count("first_reply") == 1
    statuses = await bench.query("SELECT DISTINCT status FROM escalations WHERE ticket_id = :id", id=ticket.subject)
    assert [row[0] for row in statuses] == ["settled"]


async def test_after_an_outage_everything_fires_in_due_order_with_its_true_deadline(bench: Bench) -> None:
    now = await bench.now()
    # Over two weeks, so that clocks of working time are due too, whatever day and hour it is now.
    starts = [now - 49 * HOUR - n * 617 * MINUTE for n in range(30)]
    random.Random(1).shuffle(starts)
    tickets = [registered(at, city=random.Random(n).choice(["jinan", "zibo"])) for n, at in enumerate(starts)]
    await bench.apply(*tickets)
    passes = await bench.sweep_all(limit=7)
    assert len(passes) > 10
    fired = [each for done in passes for each in done.fired]
    # The first rung is due at the deadline itself, the breach one microsecond past it.
    assert all(later.due >= earlier.due - MICROSECOND for earlier, later in itertools.pairwise(fired))
    assert all(each.due <= done.now for done in passes for each in done.fired)

    due = {each.subject: each.data.ticket.accepted_at + 48 * HOUR for each in tickets}
    rows = await bench.query("SELECT ticket_id, due_at, breached_at FROM clocks WHERE kind = 'first_reply'")
    assert {row.ticket_id: row.due_at for row in rows} == due
    assert all(row.breached_at >= now > row.due_at for row in rows)
    breaches = await bench.published("clock.breached")
    assert {each["clock"]["kind"] for each in breaches} > {"first_reply", "review"}
    for each in breaches:
        late = datetime.fromisoformat(each["fired_at"]) - datetime.fromisoformat(each["clock"]["due_at"])
        assert each["late_seconds"] == pytest.approx(late.total_seconds())
    for ticket in tickets:
        mine = await bench.published("clock.breached", ticket.subject)
        deadlines = [each["clock"]["due_at"] for each in mine]
        assert deadlines == sorted(deadlines)
    # Every rung whose hours have passed was climbed once: the first at the deadline, each after the one before.
    rungs = await bench.query(
        "SELECT c.due_at, c.rung, (SELECT array_agg(e.rung ORDER BY e.escalation_id) FROM escalations AS e"
        " WHERE e.clock_id = c.clock_id) AS raised FROM clocks AS c WHERE kind = 'first_reply'"
    )
    for row in rungs:
        wanted = sum(row.due_at + hours * HOUR <= now for hours in (0, 4, 12, 24, 48))
        assert (row.rung, row.raised) == (wanted, list(range(1, wanted + 1)))


async def test_a_day_off_counts_for_clocks_that_begin_later_and_moves_no_running_one(bench: Bench) -> None:
    """2026-12-02 is a Wednesday. Half a working day from 17:00 ends on the next working day."""
    accepted = local("2026-12-01T17:00:00")
    before, after = registered(accepted), registered(accepted)
    await bench.apply(before)
    promised = (await bench.clock(before, "transfer")).due_at
    assert promised.astimezone(PACK.tz).date().isoformat() == "2026-12-02"
    async with bench.database.transaction() as transaction:
        await transaction.connection.execute(text("UPDATE calendar_days SET working = false WHERE day = '2026-12-02'"))
    bench.desk.almanac.expire()
    await bench.apply(after)
    assert (await bench.clock(before, "transfer")).due_at == promised
    assert (await bench.clock(after, "transfer")).due_at == promised + 24 * HOUR


async def test_an_approved_ticket_is_reckoned_by_its_classes(bench: Bench) -> None:
    """review's snapshot does not know the class that sla found; the shorter limit stays."""
    start = await bench.now() - 24 * HOUR
    first, again = registered(start, customer="same"), registered(start + 9 * HOUR, customer="same")
    await bench.one_by_one(first, closed(first, start + 8 * HOUR), again)
    approved = ReviewApproved(ticket=again.data.ticket, round=1, automatic=True, basis=BASIS, actor="rules")
    await bench.apply(event(approved, again.subject, start + 10 * HOUR, "review"))
    run = await bench.clock(again, "resolution")
    assert (run.rule, run.due_at) == ("GDM-L6", start + 57 * HOUR)

"""Warnings, breaches and ladders: never early, and in due order after an outage."""

from datetime import datetime, timedelta

import pytest

from services.sla.domain import clocks
from services.sla.domain.firing import Fired, fire_all
from services.sla.domain.records import AFTER, ClockRun, ClockState, Facts
from shared.contracts.sla import ClockBreached, EscalationRaised
from tests.unit.sla.parts import HOUR, STEP, T0, book, facts, play, published, run, runs

ZERO = timedelta(0)


def registered(number: int = 1, at: datetime = T0) -> Facts:
    """With the first reply's clock alone."""
    held = facts(number, accepted_at=at, submitted_at=at)
    play(held, "ticket.registered", at)
    held.runs = runs(held, "first_reply")
    return held


def sweep(now: datetime, *held: Facts, horizon: datetime | None = None) -> list[Fired]:
    pairs: list[tuple[Facts, ClockRun]] = [(each, clock) for each in held for clock in each.runs]
    return fire_all(book(), pairs, horizon or now, now)


def escalations(held: Facts) -> list[EscalationRaised]:
    return [item.event for item in held.pending if isinstance(item.event, EscalationRaised)]


def test_nothing_fires_early() -> None:
    held = registered()
    assert sweep(T0 + 36 * HOUR - STEP, held) == []
    assert [each.moment for each in sweep(T0 + 36 * HOUR, held)] == ["warning"]
    assert sweep(T0 + 48 * HOUR, held) == []
    assert [each.moment for each in sweep(T0 + 48 * HOUR + STEP, held)] == ["breach", "rung"]


def test_a_boundary_at_the_deadline_fires_at_the_deadline() -> None:
    held = facts()
    play(held, "order.dispatched", T0, unit="sub_centre.jinan", branch="centre2")
    held.runs = runs(held, "branch_feedback")
    sweep(T0 + 36 * HOUR, held)
    assert sweep(T0 + 48 * HOUR - STEP, held) == []
    assert [each.moment for each in sweep(T0 + 48 * HOUR, held)] == ["breach", "rung"]
    (raised,) = escalations(held)
    assert (raised.kind, raised.rung) == ("silent_branch", 1)


def test_each_unanswered_rung_goes_to_the_next() -> None:
    """GDM-P3, 逐級上報: 0, 4, 8, 12 and 24 hours, each from the rung before."""
    held = registered()
    seen: list[timedelta] = []
    now = T0 + 48 * HOUR
    for _ in range(60):
        now += HOUR
        seen += [now - T0 - 48 * HOUR for fired in sweep(now, held) if fired.moment == "rung"]
    assert [each // HOUR for each in seen] == [1, 4, 12, 24, 48]
    assert [each.rung for each in escalations(held)] == [1, 2, 3, 4, 5]
    levels = [each.level.zh for each in escalations(held) if each.level is not None]
    assert levels[0].startswith("班组长级")
    assert levels[-1] == "省公司"
    assert run(held, "first_reply").next_at is None


def test_acknowledging_stops_the_ladder_and_keeps_the_breach() -> None:
    held = registered()
    sweep(T0 + 49 * HOUR, held)
    clock = run(held, "first_reply")
    clocks.acknowledge(clock, "supervisor:x", T0 + 50 * HOUR)
    clocks.acknowledge(clock, "supervisor:y", T0 + 51 * HOUR)
    assert (clock.acknowledged_by, clock.next_at, clock.state) == ("supervisor:x", None, ClockState.breached)
    assert sweep(T0 + 500 * HOUR, held) == []


def test_stopping_ends_the_ladder() -> None:
    held = registered()
    sweep(T0 + 49 * HOUR, held)
    play(held, "order.progressed", T0 + 50 * HOUR, contacted_at=T0 + 50 * HOUR)
    held.runs = runs(held, "first_reply")
    assert sweep(T0 + 90 * HOUR, held) == []


def test_after_an_outage_all_fires_in_due_order_with_true_times() -> None:
    early, late = registered(1), registered(2, T0 + HOUR)
    now = T0 + 54 * HOUR
    fired = sweep(now, late, early)
    assert [each.moment for each in fired] == ["warning", "warning", "breach", "rung", "breach", "rung", "rung", "rung"]
    dues = [each.due for each in fired if each.moment != "rung"]
    assert dues == sorted(dues)
    for held in (early, late):
        kinds = ["clock.warned", "clock.breached", "escalation.raised", "escalation.raised"]
        assert published(held) == kinds
        (breach,) = [item.event for item in held.pending if isinstance(item.event, ClockBreached)]
        assert breach.fired_at == now
        assert breach.late_seconds == (now - breach.clock.due_at).total_seconds()
        assert all(item.time == now for item in held.pending)


def test_a_full_batch_leaves_later_moments_to_the_next() -> None:
    """Otherwise the breach of one clock would overtake the warnings of clocks that did not fit into the batch."""
    held = registered()
    now = T0 + 60 * HOUR
    assert [each.moment for each in sweep(now, held, horizon=T0 + 36 * HOUR)] == ["warning"]
    assert [each.moment for each in sweep(now, held)] == ["breach", "rung", "rung", "rung"]


def test_the_escalation_says_how_late_it_is() -> None:
    held = registered()
    sweep(T0 + 50 * HOUR + timedelta(minutes=12), held)
    assert escalations(held)[0].reason == (
        "首次答复客户超时,已逾期 2 小时 12 分 / First reply to the customer: overdue, late by 2 h 12 min"
    )


def test_a_ladder_of_a_deadline_long_past_counts_from_when_it_was_known() -> None:
    """A reopened ticket does not reach the province in the same second."""
    held = facts()
    play(held, "ticket.registered", T0)
    play(held, "ticket.closed", T0 + HOUR)
    play(held, "ticket.reopened", T0 + 200 * HOUR)
    held.runs = [run(held, "resolution")]
    held.pending.clear()
    sweep(T0 + 200 * HOUR, held)
    assert [each.rung for each in escalations(held)] == [1]
    assert run(held, "resolution").next_at == T0 + 204 * HOUR


def test_a_progress_report_that_is_missing_asks_again_every_48_hours() -> None:
    """DET-38; the report of the next cycle is counted from the deadline missed."""
    held = facts()
    play(held, "ticket.registered", T0)
    play(held, "order.progressed", T0, contacted_at=T0)
    held.runs = runs(held, "progress")
    held.pending.clear()
    sweep(T0 + 97 * HOUR, held)
    first, second, third = runs(held, "progress")
    assert [first.due_at, second.due_at, third.due_at] == [T0 + hours * HOUR for hours in (48, 96, 144)]
    assert [each.state for each in (first, second, third)] == [
        ClockState.breached,
        ClockState.breached,
        ClockState.running,
    ]
    assert {each.kind for each in escalations(held)} == {"progress_due"}
    play(held, "order.progressed", T0 + 98 * HOUR, contacted_at=T0 + 98 * HOUR)
    assert not [each for each in runs(held, "progress") if each.open and not each.running]
    assert third.state is ClockState.met


def test_a_soft_clock_reminds_and_never_breaches() -> None:
    """SDM-S6: before 17:00 as far as possible (8.3 no. 32)."""
    held = facts(channel="points_base")
    play(held, "order.dispatched", T0, branch="centre2")
    held.runs = runs(held, "points_closing")
    (clock,) = held.runs
    assert clock.due_at == datetime.fromisoformat("2026-11-22T17:00:00+08:00")
    assert [each.moment for each in sweep(T0 + 24 * HOUR, held)] == ["warning", "reminder"]
    assert published(held) == ["clock.warned", "clock.warned"]
    assert (clock.state, clock.breached_at, clock.next_at) == (ClockState.stopped, None, None)


@pytest.mark.parametrize("offset", [-STEP, ZERO])
def test_a_ladder_is_not_climbed_before_its_time(offset: timedelta) -> None:
    held = registered()
    sweep(T0 + 48 * HOUR + AFTER, held)
    held.pending.clear()
    fired = sweep(T0 + 52 * HOUR + offset, held)
    assert len(fired) == (1 if offset == ZERO else 0)

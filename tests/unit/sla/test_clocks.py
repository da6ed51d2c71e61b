"""Starting, stopping and moving clocks, in whatever order the events come."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from services.sla.domain import clocks
from services.sla.domain.detection import add_classes
from services.sla.domain.records import AFTER, ClockState, Facts
from shared.contracts.sla import ClockBreached
from shared.policy import class_mark
from tests.unit.sla.parts import HOUR, STEP, T0, book, facts, play, published, run, runs

TOLD: dict[str, Any] = {"contacted_at": T0 + HOUR}


def test_registration_starts_the_promises_to_the_customer() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    assert {each.kind for each in held.runs} == {"first_reply", "resolution", "review", "transfer"}
    assert run(held, "first_reply").due_at == T0 + 48 * HOUR
    assert run(held, "first_reply").next_at == T0 + 36 * HOUR
    assert held.cycles == {"first_reply": 1, "resolution": 1, "review": 1, "transfer": 1}


def test_counted_and_excluded_time_make_up_the_whole() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    for each in held.runs:
        assert each.counted_seconds + each.excluded_seconds == (each.due_at - each.started_at).total_seconds()
    # Half a working day (8.3 no. 7), from a Sunday.
    assert run(held, "review").counted_seconds == book().calendar.day_length.total_seconds() / 2
    assert run(held, "review").excluded_seconds > 0


@pytest.mark.parametrize("order", ["start first", "stop first"])
def test_a_supplement_clock_ends_alike_in_both_orders(order: str) -> None:
    """review.returned starts it, ticket.supplemented stops it: two publishers, no order between them."""
    held = facts()
    play(held, "ticket.registered", T0)
    events = [("review.returned", T0 + HOUR), ("ticket.supplemented", T0 + 2 * HOUR)]
    for name, at in events if order == "start first" else reversed(events):
        play(held, name, at)
    clock = run(held, "supplement")
    assert (clock.state, clock.opened_at, clock.stopped_at) == (ClockState.met, T0 + HOUR, T0 + 2 * HOUR)
    # The review of round 1 ended with the return, that of round 2 began with the supplement.
    first, second = runs(held, "review")
    assert (first.state, first.stopped_at) == (ClockState.met, T0 + HOUR)
    assert (second.state, second.opened_at) == (ClockState.running, T0 + 2 * HOUR)


@pytest.mark.parametrize("order", ["start first", "stop first"])
def test_a_late_supplement_is_a_breach_in_both_orders(order: str) -> None:
    held = facts()
    events = [("review.returned", T0), ("ticket.supplemented", T0 + 25 * HOUR)]
    for name, at in events if order == "start first" else reversed(events):
        play(held, name, at)
    clock = run(held, "supplement")
    assert clock.state is ClockState.breached
    assert clock.breached_at == T0 + 25 * HOUR
    (event,) = [item.event for item in held.pending if isinstance(item.event, ClockBreached)]
    assert (event.fired_at, event.late_seconds) == (T0 + 25 * HOUR, 3600.0)


def test_a_stop_of_the_round_before_does_not_stop_the_next() -> None:
    held = facts()
    play(held, "review.returned", T0)
    play(held, "ticket.supplemented", T0 + HOUR)
    play(held, "review.returned", T0 + 2 * HOUR)
    play(held, "ticket.supplemented", T0 + HOUR)
    assert run(held, "supplement").running


@pytest.mark.parametrize(
    ("stopped_at", "state"),
    [
        (T0 + 48 * HOUR - STEP, ClockState.met),
        (T0 + 48 * HOUR, ClockState.met),
        (T0 + 48 * HOUR + STEP, ClockState.breached),
    ],
)
def test_at_the_deadline_itself_it_is_in_time(stopped_at: datetime, state: ClockState) -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    play(held, "order.progressed", stopped_at, contacted_at=stopped_at)
    assert runs(held, "first_reply")[0].state is state


@pytest.mark.parametrize(
    ("stopped_at", "state"), [(T0 + 48 * HOUR - STEP, ClockState.met), (T0 + 48 * HOUR, ClockState.breached)]
)
def test_a_silent_branch_is_late_at_48_hours(stopped_at: datetime, state: ClockState) -> None:
    """DET-31 and BC-10: `>= 48 h` is silence."""
    held = facts()
    play(held, "order.dispatched", T0, unit="sub_centre.jinan", branch="centre2")
    assert run(held, "branch_feedback").breach_at == T0 + 48 * HOUR
    play(held, "order.returned", stopped_at)
    assert run(held, "branch_feedback").state is state


def test_a_reply_that_reached_nobody_does_not_stop_the_first_reply() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    play(held, "order.replied", T0 + HOUR, reply={"satisfaction": "not_called"})
    assert run(held, "first_reply").running
    play(held, "order.replied", T0 + 2 * HOUR, reply={"satisfaction": "unsatisfied"})
    assert run(held, "first_reply").state is ClockState.met
    assert run(held, "resolution").running


def test_a_breach_is_never_erased() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    clock = run(held, "first_reply")
    clocks.breach(book(), held, clock, T0 + 48 * HOUR + AFTER)
    play(held, "order.progressed", T0 + HOUR, contacted_at=T0 + HOUR)
    assert (clock.state, clock.breached_at, clock.stopped_at) == (
        ClockState.breached,
        T0 + 48 * HOUR + AFTER,
        T0 + HOUR,
    )
    assert clock.next_at is None


def test_the_progress_clock_begins_with_the_first_reply_and_repeats() -> None:
    """Domain 8.3 no. 28."""
    held = facts()
    play(held, "ticket.registered", T0)
    assert not runs(held, "progress")
    for hours in (1, 20):
        at = T0 + hours * HOUR
        play(held, "order.progressed", at, contacted_at=at)
    first, second = runs(held, "progress")
    assert (first.state, first.cycle) == (ClockState.met, 1)
    assert (second.running, second.cycle, second.due_at) == (True, 2, T0 + 68 * HOUR)


def test_a_communication_entered_late_is_a_breach_at_once() -> None:
    """GDM-O2: half a working day from the talk to its entry. The talk was on Friday, the entry on Tuesday."""
    held = facts()
    talk = datetime.fromisoformat("2026-11-20T09:00:00+08:00")
    play(held, "order.progressed", talk + timedelta(days=4), contacted_at=talk)
    clock = run(held, "communication_entry")
    assert clock.state is ClockState.breached
    assert clock.started_at == talk
    play(held, "order.progressed", talk + timedelta(days=4), contacted_at=talk + timedelta(days=4))
    assert [each.state for each in runs(held, "communication_entry")] == [ClockState.breached, ClockState.met]


def test_a_withdrawn_ticket_has_no_verdict_and_starts_nothing_more() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    play(held, "ticket.withdrawn", T0 + HOUR)
    assert {each.state for each in held.runs} == {ClockState.stopped}
    play(held, "review.returned", T0 + 2 * HOUR)
    assert not runs(held, "supplement")
    assert not held.pending


def test_withdrawing_too_late_does_not_hide_the_breach() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    play(held, "ticket.withdrawn", T0 + 49 * HOUR)
    assert run(held, "resolution").state is ClockState.breached
    assert published(held).count("clock.breached") == 4


def test_closing_fulfils_the_resolution_and_ends_the_rest() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    play(held, "ticket.closed", T0 + 40 * HOUR, outcome="not_reached")
    assert run(held, "resolution").state is ClockState.met
    assert run(held, "first_reply").state is ClockState.stopped


def test_a_reopened_ticket_counts_from_acceptance_again() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    play(held, "callback.recorded", T0 + HOUR, outcome="satisfied")
    play(held, "ticket.closed", T0 + HOUR)
    play(held, "ticket.reopened", T0 + 60 * HOUR)
    clock = run(held, "resolution")
    assert (clock.cycle, clock.started_at, clock.due_at) == (2, T0, T0 + 48 * HOUR)
    # Nobody is warned of a deadline that has passed; the ladder counts from the reopening.
    assert clock.warn_at is None
    assert clock.ladder_from == T0 + 60 * HOUR


def test_a_first_reply_runs_once() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    play(held, "ticket.registered", T0 + HOUR)
    assert len(runs(held, "first_reply")) == 1


def mzone(**given: Any) -> Facts:
    held = facts(customer={"brand": "mzone"}, **given)
    play(held, "ticket.registered", T0)
    assert run(held, "resolution").due_at == T0 + 96 * HOUR
    return held


def test_a_class_added_later_shortens_the_resolution() -> None:
    held = mzone()
    add_classes(book(), held, [class_mark(book().pack, "repeat")], T0 + HOUR)
    clock = run(held, "resolution")
    assert (clock.rule, clock.due_at) == ("GDM-L6", T0 + 48 * HOUR)
    (change,) = clock.explanation["changes"]
    assert (change["rule_before"], change["because"]) == ("GDM-L4", "classes")
    assert change["due_before"] == (T0 + 96 * HOUR).isoformat()


def test_a_class_never_lengthens_a_promise() -> None:
    held = facts(customer={"tier": "vip"})
    play(held, "ticket.registered", T0)
    add_classes(book(), held, [class_mark(book().pack, "batch")], T0 + HOUR)
    assert run(held, "resolution").due_at == T0 + 24 * HOUR
    held.ticket = held.ticket.model_copy(update={"classes": ()})
    clocks.recompute_by_class(book(), held, T0 + HOUR)
    assert run(held, "resolution").due_at == T0 + 24 * HOUR


@pytest.mark.parametrize("brand", ["gotone", "mzone", None])
def test_sent_to_another_province_replaces_the_limit_of_the_brand(brand: str | None) -> None:
    """Domain 8.3 no. 18: the one case in which a promise becomes longer."""
    held = facts(customer={"brand": brand})
    play(held, "ticket.registered", T0)
    add_classes(book(), held, [class_mark(book().pack, "sent_to_other_province")], T0 + HOUR)
    assert (run(held, "resolution").rule, run(held, "resolution").due_at) == ("GDM-L10", T0 + 120 * HOUR)


def test_sent_to_another_province_does_not_lengthen_a_repeat() -> None:
    held = mzone()
    for code in ("repeat", "sent_to_other_province"):
        add_classes(book(), held, [class_mark(book().pack, code)], T0 + HOUR)
    assert run(held, "resolution").due_at == T0 + 48 * HOUR


def test_a_breached_resolution_keeps_its_deadline() -> None:
    held = mzone()
    clock = run(held, "resolution")
    clocks.breach(book(), held, clock, T0 + 97 * HOUR)
    add_classes(book(), held, [class_mark(book().pack, "repeat")], T0 + 98 * HOUR)
    assert clock.due_at == T0 + 96 * HOUR


def test_a_deadline_moved_into_the_past_is_due_at_once_and_its_ladder_counts_from_then() -> None:
    held = mzone()
    add_classes(book(), held, [class_mark(book().pack, "repeat")], T0 + 60 * HOUR)
    clock = run(held, "resolution")
    assert clock.next_at == T0 + 48 * HOUR + AFTER
    assert clock.ladder_from == T0 + 60 * HOUR


def test_provisional_clocks_are_reckoned_again_when_the_year_is_published() -> None:
    held = facts()
    play(held, "ticket.registered", T0)
    clock = run(held, "review")
    due, clock.provisional, clock.due_at = clock.due_at, True, clock.due_at + timedelta(days=1)
    clocks.recompute_provisional(book(), held, T0 + HOUR)
    assert (clock.due_at, clock.provisional) == (due, False)
    assert clock.explanation["changes"][0]["because"] == "calendar"

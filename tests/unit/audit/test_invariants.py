"""What the invariants forgive, and what they do not: retention, a log made anew, scaled time, a clock's last moment."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from deploy.audit.delivery import order_is_kept, versions_are_whole
from deploy.audit.effects import effects_are_single
from deploy.audit.evidence import Evidence, born
from deploy.audit.promises import clocks_tell_the_truth
from shared.ids import new_id

SECOND = 1_000_000
HOUR = 3600 * SECOND
DUE = 1_800_000_000 * SECOND
TICKET = str(new_id())


@pytest.fixture
def evidence() -> Iterator[Evidence]:
    """Empty, of a log that began at 100 s; audited an hour after the deadline of the clocks."""
    made = Evidence()
    made.scope.now = DUE + HOUR
    made.scope.log_from = 100 * SECOND
    yield made
    made.close()


def event(version: int, *, created: int = 200 * SECOND, published: int = 200 * SECOND, **more: Any) -> tuple[Any, ...]:
    """A row of intake's outbox."""
    values = {"service": "intake", "id": version, "stream": "own", "topic": "gongdan.intake", "subject": TICKET}
    values |= {"version": version, "event_id": f"e{version}", "type": "x", "created": created, "published": published}
    return (*(values | more).values(), *[None] * 8)


def record(position: int, version: int, partition: int = 0) -> tuple[Any, ...]:
    return ("gongdan.intake", partition, position, 0, f"e{version}", TICKET, "intake", version, *[None] * 7)


def partition(first: int, first_at: int) -> tuple[Any, ...]:
    return ("gongdan.intake", 0, first, 100, first_at)


@pytest.mark.parametrize(
    ("order", "breaches"),
    [([1, 2, 3], 0), ([1, 2, 1, 2, 3], 0), ([1, 1, 2, 3, 1], 0), ([2, 1, 3], 1), ([1, 3, 2, 3], 1)],
)
def test_repeats_are_no_breach_of_order_and_inversions_are(evidence: Evidence, order: list[int], breaches: int) -> None:
    evidence.add("outbox", [event(version) for version in (1, 2, 3)])
    evidence.add("records", [record(position, version) for position, version in enumerate(order)])
    evidence.complete()
    assert order_is_kept(evidence).breaches == breaches


@pytest.mark.parametrize(("log_from", "first", "breaches"), [(100, 0, 1), (300, 0, 0), (100, 50, 0)])
def test_order_is_judged_only_where_the_log_saw_the_beginning(
    evidence: Evidence, log_from: int, first: int, breaches: int
) -> None:
    """Two events of 200 s stand inverted; the log may be younger, or trimmed behind them."""
    evidence.scope.log_from = log_from * SECOND
    evidence.add("outbox", [event(1), event(2)])
    evidence.add("records", [record(first, 2), record(first + 1, 1)])
    evidence.add("partitions", [partition(first, 250 * SECOND)])
    evidence.complete()
    found = order_is_kept(evidence)
    assert found.breaches == breaches
    assert bool(found.notes) is not bool(breaches)


def test_a_subject_in_two_partitions_is_a_breach(evidence: Evidence) -> None:
    evidence.add("outbox", [event(1), event(2)])
    evidence.add("records", [record(0, 1), record(0, 2, partition=1)])
    evidence.complete()
    assert order_is_kept(evidence).shown == [
        f"in more than one partition: topic gongdan.intake, publisher intake, subject {TICKET}, partitions 2"
    ]


@pytest.mark.parametrize(
    ("versions", "kept_from", "breaches"), [([1, 2], 0, 0), ([2, 3], 0, 1), ([2, 3], DUE, 0), ([1, 3], DUE, 1)]
)
def test_only_a_beginning_past_retention_may_be_missing(
    evidence: Evidence, versions: list[int], kept_from: int, breaches: int
) -> None:
    evidence.scope.quiet = False
    evidence.scope.kept_from = kept_from
    evidence.add("outbox", [event(version) for version in versions])
    evidence.add("subjects", [("intake", TICKET, "own", versions[-1])])
    evidence.complete()
    assert versions_are_whole(evidence).breaches == breaches


@pytest.mark.parametrize(("published", "first", "breaches"), [(200, 0, 1), (110, 0, 0), (200, 50, 0), (300, 50, 1)])
def test_what_an_older_or_a_trimmed_log_held_need_not_be_on_its_topic(
    evidence: Evidence, published: int, first: int, breaches: int
) -> None:
    """The log began at 100 s, a trimmed partition at 250 s; up to 20 s may lie between sending and mark."""
    evidence.add("outbox", [event(1, published=published * SECOND)])
    evidence.add("timeline", [(TICKET, "e1", "intake", "x")])
    evidence.add("partitions", [partition(first, 250 * SECOND)])
    evidence.complete()
    assert [text.partition(":")[0] for text in effects_are_single(evidence).shown] == [
        "published, and not on its topic"
    ] * breaches


def clock(**more: Any) -> tuple[Any, ...]:
    """A clock that ran to its deadline and was met just then."""
    values = {"clock_id": "c", "ticket_id": TICKET, "kind": "k", "cycle": 1, "state": "met", "boundary": "after"}
    values |= {"soft": 0, "moved": 0, "due_at": DUE, "warn_at": None, "next_at": None, "warned_at": None}
    return tuple((values | {"breached_at": None, "stopped_at": DUE} | more).values())


BREACHED = {"state": "breached", "stopped_at": None}
RUNNING = {"state": "running", "stopped_at": None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"boundary": "at"}, "both met and late"),
        ({"stopped_at": DUE + 1}, "both met and late"),
        ({**BREACHED, "breached_at": DUE + 1}, None),
        ({**BREACHED, "breached_at": DUE}, "fired early"),
        ({**BREACHED, "breached_at": DUE, "boundary": "at"}, None),
        ({**BREACHED, "breached_at": DUE + 3 * HOUR}, "fired in the future"),
        ({**RUNNING, "next_at": DUE + 1}, "due and neither fired nor stopped"),
        ({**RUNNING, "due_at": DUE + 2 * HOUR, "next_at": DUE + 2 * HOUR + 1}, None),
        ({**RUNNING, "due_at": DUE + 2 * HOUR}, "will never fire"),
        ({"state": "stopped", "stopped_at": None}, "stopped without a time"),
        ({"next_at": DUE + 1}, "still to fire though it is over"),
        ({"warn_at": DUE - 5, "warned_at": DUE - 6}, "warned early"),
        ({"warn_at": DUE - 5, "warned_at": DUE - 6, "moved": 1}, None),
    ],
)
def test_a_clock_is_judged_to_the_microsecond(evidence: Evidence, changes: dict[str, Any], words: str | None) -> None:
    evidence.add("clocks", [clock(**changes)])
    if "breached_at" in changes:
        breach = event(1, service="sla", type="clock.breached")[:10]
        fired_at = changes["breached_at"]
        evidence.add("outbox", [(*breach, None, None, None, None, "k", 1, fired_at, None)])
        evidence.change("UPDATE outbox SET created = :at", at=DUE + HOUR)
    evidence.complete()
    assert [text.partition(":")[0] for text in clocks_tell_the_truth(evidence).shown] == ([words] if words else [])


def test_scaled_time_moves_what_is_due(evidence: Evidence) -> None:
    """At 3600, ten real seconds are ten hours, and the sweep may be late by 30 real ones."""
    evidence.scope.scale, evidence.scope.origin = 3600.0, DUE
    evidence.add("clocks", [clock(**RUNNING, next_at=DUE + 1)])
    evidence.complete()
    evidence.scope.now = DUE + 10 * SECOND
    assert clocks_tell_the_truth(evidence).breaches == 0
    evidence.scope.now = DUE + 40 * SECOND
    assert clocks_tell_the_truth(evidence).breaches == 1


def test_a_uuid_tells_when_it_was_made() -> None:
    assert born("01a202b2-d070-755b-b302-6a834ff792dd") == int("01a202b2d070", 16) * 1000
    assert born(str(UUID(int=5))) is None
    assert born(None) is None


@pytest.mark.parametrize(
    ("topic", "state", "breaches"),
    [("gongdan.branch.replies", "open", 1)]
    + [("gongdan.review", state, breaches) for state, breaches in (("open", 0), ("discarded", 0), ("redriven", 1))],
)
def test_a_dead_letter_excuses_its_ticket_until_it_was_redriven(
    evidence: Evidence, topic: str, state: str, breaches: int
) -> None:
    """Intake did not apply the second event of review; a command that was refused is no excuse."""
    rows = [event(version, service="review", topic="gongdan.review") for version in (1, 2)]
    evidence.add("outbox", rows)
    evidence.add("subjects", [("review", TICKET, "own", 2)])
    readers = ("intake", "dispatch", "sla")
    evidence.add("inbox", [(reader, TICKET, "review", 1 if reader == "intake" else 2) for reader in readers])
    evidence.add("dead", [("intake", 1, topic, 0, 0, TICKET, "review", 2, "e2", "why", 0, "d", state)])
    evidence.complete()
    assert versions_are_whole(evidence).breaches == breaches


def told(
    version: int, type_name: str, kind: str | None, rung: int | None, service: str = "dispatch"
) -> tuple[Any, ...]:
    """An event of dispatch or sla about an escalation, as `event` gives it with its kind and rung."""
    return (
        *event(version, service=service, event_id=f"{service}{version}", type=type_name)[:14],
        kind,
        None,
        None,
        rung,
    )


@pytest.mark.parametrize(
    ("events", "breaches"),
    [
        ([("order.escalated", "batch", 1)], 0),
        ([("order.escalated", "batch", 1)] * 2, 1),
        ([("order.escalated", "batch", 1), ("order.escalated", "overdue", 2)], 0),
        ([("order.escalated", "overdue", 1)], 1),
        ([("order.urged", "silent_branch", None)], 0),
        ([("order.urged", "silent_branch", None)] * 2, 1),
        ([("order.urged", None, None)] * 2, 0),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_each_escalation_reaches_a_branch_once_whatever_else_waits(
    evidence: Evidence, events: list[tuple[str, str | None, int | None]], breaches: int, held: bool
) -> None:
    """Three were raised. What people urge has no kind; a dead letter explains what is missing, not what is too much."""
    evidence.scope.quiet = False
    raised = [("batch", 1), ("overdue", 2), ("silent_branch", 3)]
    evidence.add("outbox", [told(n, "escalation.raised", *one, service="sla") for n, one in enumerate(raised, 1)])
    evidence.add("outbox", [told(n, *one) for n, one in enumerate(events, 1)])
    if held:
        evidence.add("dead", [("dispatch", 1, "gongdan.sla", 0, 0, TICKET, "sla", 4, "e4", "why", 0, "d", "open")])
    evidence.complete()
    assert [text.partition(":")[0] for text in effects_are_single(evidence).shown] == [
        "dispatch told a branch of more escalations than sla raised"
    ] * breaches

"""Clocks and limits: what starts and stops them, when they are due, and the very deadline."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.calendar import WorkingCalendar
from shared.contracts.ticket import TicketSnapshot
from shared.policy import (
    ClockSpec,
    assess,
    class_mark,
    clock_changes,
    clock_due,
    clock_start,
    limits,
    on_time,
    resolution_rule,
    rung,
)
from shared.policy.conditions import When
from tests.unit.policy.tickets import NOW, at, calendar, pack, ticket

HOUR = timedelta(hours=1)


def spec(kind: str) -> ClockSpec:
    return pack().clock_by_kind[kind]


def changes(event_type: str, event: Mapping[str, object], **given_ticket: Any) -> tuple[set[str], set[str]]:
    found = clock_changes(pack(), event_type, assess(pack(), ticket(**given_ticket)), event)
    return {each.kind for each in found.start}, set(found.stop)


# Marks of classes, and what each alone makes of the 96 h of M-Zone (GDM-L1 … L10).
HOURS_OF_CLASS = {
    "vip": 24,
    "level_skipping": 48,
    "major": 24,
    "repeat": 48,
    "batch": 48,
    "international": 24,
    "raised": 96,
    "important": 96,
    "appeal": 96,
}
REPLACING = {"received_from_other_province": 72, "sent_to_other_province": 120}
BRANDS_AND_CLASSES = list(product(["gotone", "mzone"], product(HOURS_OF_CLASS, [*HOURS_OF_CLASS, *REPLACING])))


def with_classes(codes: tuple[str, ...], brand: str | None) -> TicketSnapshot:
    marks = [class_mark(pack(), code) for code in codes]
    return assess(pack(), ticket(customer={"brand": brand}), marks)


@pytest.mark.parametrize(
    ("brand", "hours"), [("gotone", 48), ("mzone", 96), ("easyown", 96), ("external", 96), (None, 96)]
)
def test_the_brand_limits(brand: str | None, hours: int) -> None:
    assert resolution_rule(pack(), with_classes((), brand)).limit.hours == hours


@pytest.mark.parametrize(("brand", "codes"), BRANDS_AND_CLASSES)
def test_the_shortest_limit_counts_but_other_provinces_replace_the_brand(brand: str, codes: tuple[str, str]) -> None:
    brand_hours = {"gotone": 48, "mzone": 96}[brand]
    own = [HOURS_OF_CLASS[code] for code in codes if code in HOURS_OF_CLASS and HOURS_OF_CLASS[code] < 96]
    replacing = [REPLACING[code] for code in codes if code in REPLACING]
    expected = min([*own, *(replacing or [brand_hours])])
    assert resolution_rule(pack(), with_classes(codes, brand)).limit.hours == expected


def test_a_class_added_later_shortens_the_promise() -> None:
    before = ticket(customer={"brand": "mzone"})
    after = assess(pack(), before, [class_mark(pack(), "batch")])
    assert [each.due_at - NOW for each in limits(pack(), before, calendar())] == [48 * HOUR, 96 * HOUR]
    assert [each.due_at - NOW for each in limits(pack(), after, calendar())] == [48 * HOUR, 48 * HOUR]
    assert limits(pack(), after, calendar())[1].rule == "GDM-L7"


def test_registration_starts_the_promises_from_acceptance() -> None:
    started, stopped = changes("ticket.registered", {})
    assert started == {"first_reply", "resolution", "review", "transfer"}
    assert not stopped
    event_time = NOW + HOUR
    assert clock_start(spec("resolution"), ticket(), {}, event_time) == NOW
    assert clock_start(spec("review"), ticket(), {}, event_time) == event_time


@pytest.mark.parametrize("event_type", ["ticket.closed", "ticket.withdrawn", "ticket.answered", "review.merged"])
def test_the_end_of_a_ticket_stops_every_clock(event_type: str) -> None:
    found = clock_changes(pack(), event_type, ticket(), {})
    assert found.terminal
    assert not found.start
    assert set(found.stop) == {clock.kind for clock in pack().clocks if clock.enabled}


@pytest.mark.parametrize(
    ("event_type", "event", "given_ticket", "started", "stopped"),
    [
        ("review.returned", {"automatic": True}, {}, {"supplement"}, {"review"}),
        ("review.returned", {"reason_code": "RT_DUPLICATE"}, {}, set(), {"review"}),
        ("ticket.supplemented", {}, {}, {"review"}, {"supplement"}),
        ("review.approved", {"automatic": True}, {}, set(), {"review"}),
        ("review.approved", {}, {"flags": ("major",)}, {"major_first_answer"}, {"review"}),
        ("ticket.reopened", {}, {}, {"resolution"}, set()),
        ("approval.requested", {"kind": "major_opinion"}, {}, {"major_opinion"}, set()),
        ("approval.granted", {"kind": "major_opinion"}, {}, set(), {"major_opinion"}),
        ("order.dispatched", {"unit": None}, {}, set(), {"transfer", "branch_feedback"}),
        (
            "order.dispatched",
            {"unit": "network_department", "holiday": True},
            {},
            {"holiday_report"},
            {"transfer", "branch_feedback"},
        ),
        (
            "order.dispatched",
            {"unit": "points_handler"},
            {"channel": "points_base"},
            {"points_closing", "points_to_province"},
            {"transfer", "branch_feedback"},
        ),
        ("order.progressed", {"note": "x"}, {}, set(), set()),
        (
            "order.progressed",
            {"contacted_at": NOW},
            {},
            {"communication_entry", "progress"},
            {"first_reply", "progress", "major_first_answer", "holiday_report"},
        ),
        ("order.progressed", {"marks": ("resources_failed",)}, {}, set(), set()),
        ("order.progressed", {"marks": ["resources_failed"]}, {"flags": ("major",)}, {"major_declaration"}, set()),
        ("order.progressed", {"marks": ["declaration_filed"]}, {"flags": ("major",)}, set(), {"major_declaration"}),
        ("order.replied", {"reply": {"satisfaction": "not_called"}}, {}, set(), {"holiday_report", "branch_feedback"}),
        ("callback.recorded", {"outcome": "not_reached"}, {}, set(), set()),
        (
            "callback.recorded",
            {"outcome": "unsatisfied"},
            {},
            {"progress"},
            {"first_reply", "progress", "major_first_answer"},
        ),
        (
            "order.replied",
            {"reply": {"satisfaction": "satisfied"}},
            {},
            {"progress"},
            {"first_reply", "resolution", "progress", "major_first_answer", "holiday_report", "branch_feedback"},
        ),
    ],
)
def test_what_an_event_starts_and_stops(
    event_type: str, event: dict[str, object], given_ticket: dict[str, Any], started: set[str], stopped: set[str]
) -> None:
    assert changes(event_type, event, **given_ticket) == (started, stopped)


def test_a_communication_is_entered_in_time_or_not() -> None:
    entry = spec("communication_entry")
    contacted = at("2026-11-20T16:30:00+08:00")
    start = clock_start(entry, ticket(), {"contacted_at": contacted.isoformat()}, NOW)
    due = clock_due(pack(), entry, ticket(), start, calendar())
    assert start == contacted
    assert entry.instant
    assert due.due_at == at("2026-11-23T11:15:00+08:00")
    assert (due.counted, due.excluded) == (timedelta(hours=3, minutes=45), due.due_at - start - due.counted)
    assert on_time(entry, due.due_at, due.due_at)
    assert not on_time(entry, due.due_at, due.due_at + timedelta(microseconds=1))


def test_progress_repeats_and_is_due_at_48_hours() -> None:
    progress = spec("progress")
    assert progress.repeats
    assert progress.on_breach == "progress_due"
    due = clock_due(pack(), progress, ticket(), NOW, calendar())
    assert due.due_at == NOW + 48 * HOUR
    assert not on_time(progress, due.due_at, due.due_at)
    assert on_time(progress, due.due_at, due.due_at - timedelta(microseconds=1))


def test_first_reply_is_in_time_at_48_hours_and_warned_before() -> None:
    reply = spec("first_reply")
    due = clock_due(pack(), reply, ticket(), NOW, calendar())
    assert due.warn_at == NOW + 36 * HOUR
    assert on_time(reply, due.due_at, NOW + 48 * HOUR)
    assert not on_time(reply, due.due_at, NOW + 48 * HOUR + timedelta(microseconds=1))


def test_resolution_names_the_rule_that_set_it() -> None:
    due = clock_due(pack(), spec("resolution"), ticket(customer={"tier": "vip"}), NOW, calendar())
    assert due.rule == "GDM-L3"
    vip = assess(pack(), ticket(customer={"tier": "vip"}))
    due = clock_due(pack(), spec("resolution"), vip, NOW, calendar())
    assert (due.rule, due.due_at) == ("GDM-L1", NOW + 24 * HOUR)
    assert "GDM-L1" in due.explanation.zh
    assert "GDM-L1: 24 hours" in due.explanation.en


def test_a_deadline_in_an_unpublished_year_is_provisional() -> None:
    before, after = at("2026-12-30T16:00:00+08:00"), at("2026-12-31T16:00:00+08:00")
    transfer = spec("transfer")
    assert not clock_due(pack(), transfer, ticket(), before, calendar()).provisional
    assert clock_due(pack(), transfer, ticket(), after, calendar()).provisional
    assert not clock_due(pack(), spec("first_reply"), ticket(), after, calendar()).provisional


@given(
    st.sampled_from([clock.kind for clock in pack().clocks]),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 1), timezones=st.just(UTC)),
    st.timedeltas(timedelta(0), timedelta(days=5)),
)
def test_every_clock_is_due_later_adds_up_and_keeps_order(kind: str, start: datetime, later: timedelta) -> None:
    clock = spec(kind)
    due = clock_due(pack(), clock, ticket(), start, calendar())
    other = clock_due(pack(), clock, ticket(), start + later, calendar())
    assert due.due_at > start
    assert due.counted + due.excluded == due.due_at - start
    assert due.counted >= timedelta(0)
    assert due.excluded >= timedelta(0)
    assert due.due_at <= other.due_at
    assert due.due_at.utcoffset() == timedelta(0)
    if due.warn_at is not None:
        assert start < due.warn_at < due.due_at


def test_the_calendar_decides_working_time_only() -> None:
    """With every day off but one week, hours stay hours and half days wait."""
    none = WorkingCalendar(
        {date(2026, 11, 1) + timedelta(days=n): n >= 30 for n in range(60)},
        pack().working_hours,
        pack().tz,
        date(2026, 12, 31),
    )
    assert clock_due(pack(), spec("first_reply"), ticket(), NOW, none).due_at == NOW + 48 * HOUR
    assert clock_due(pack(), spec("transfer"), ticket(), NOW, none).due_at == at("2026-12-01T13:45:00+08:00")


def test_the_ladder_goes_up_to_the_province_and_ends() -> None:
    steps = [rung(pack(), "ordinary", n) for n in range(1, 6)]
    assert all(steps)
    assert steps[-1] is not None
    assert steps[-1].level.zh == "省公司"
    assert steps[0] is not None
    assert steps[0].after == timedelta(0)
    assert rung(pack(), "ordinary", 6) is None
    assert rung(pack(), "ordinary", 0) is None


def test_disabled_clocks_never_start() -> None:
    assert not spec("return_summary").enabled
    assert spec("return_summary").disabled_because is not None
    assert "return_summary" not in changes("review.returned", {})[0]


@pytest.mark.parametrize(
    ("kind", "due", "rule"),
    [
        ("first_reply", "2026-11-25T10:00:00+08:00", "GDM-L11"),
        ("review", "2026-11-23T15:15:00+08:00", "GDM-O4-REVIEW"),
        ("transfer", "2026-11-23T15:15:00+08:00", "GDM-O4"),
        ("supplement", "2026-11-24T10:00:00+08:00", "SDM-R9"),
        ("communication_entry", "2026-11-23T15:15:00+08:00", "GDM-O2"),
        ("progress", "2026-11-25T10:00:00+08:00", "GDM-O5"),
        ("major_opinion", "2026-11-23T11:00:00+08:00", "GDM-M2"),
        ("major_first_answer", "2026-11-25T10:00:00+08:00", "GDM-M3"),
        ("major_declaration", "2026-11-23T15:15:00+08:00", "GDM-M5"),
        ("holiday_report", "2026-11-23T14:00:00+08:00", "GDM-H6"),
        ("branch_feedback", "2026-11-25T10:00:00+08:00", "SDM-S7"),
        ("return_summary", "2026-11-23T17:00:00+08:00", "SDM-R4"),
        ("points_closing", "2026-11-23T17:00:00+08:00", "SDM-S6"),
        ("points_to_province", "2026-11-23T17:30:00+08:00", "SDM-S6-PROVINCE"),
    ],
)
def test_how_long_each_clock_runs_from_a_monday_at_ten(kind: str, due: str, rule: str) -> None:
    found = clock_due(pack(), spec(kind), ticket(), at("2026-11-23T10:00:00+08:00"), calendar())
    assert (found.due_at, found.rule) == (at(due), rule)


def test_a_limit_by_class_is_found_again_in_the_same_situation_only() -> None:
    rules = pack()
    assert rules.limits.resolved_by == ("brand", "classes")
    for _ in range(2):
        assert resolution_rule(rules, ticket(customer={"brand": "gotone"})).id == "GDM-L3"
        assert resolution_rule(rules, ticket(customer={"brand": "mzone"})).id == "GDM-L4"
        assert resolution_rule(rules, assess(rules, ticket(flags=("major",)))).id == "GDM-L5"


def test_a_limit_found_for_one_is_not_given_to_true() -> None:
    """They are equal, and a rule tells them apart."""
    rules = pack()
    urgent = rules.limits.fallback.model_copy(update={"id": "TEST-1", "when": When({"element.outage": True})})
    fresh = type(rules.limits)(
        first_reply=rules.limits.first_reply, resolution=(urgent,), fallback=rules.limits.fallback
    )
    changed = rules.model_copy(update={"limits": fresh})
    for value, expected in ((1, rules.limits.fallback.id), (True, "TEST-1"), (1, rules.limits.fallback.id)):
        assert resolution_rule(changed, ticket(elements={"outage": value})).id == expected

"""Repeats, second complaints within hours, and batches: by event time, in whatever order complaints come."""

import random
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from services.sla.domain.detection import (
    Earlier,
    Neighbourhood,
    close,
    detect_appeal,
    detect_batch,
    detect_repeat,
    may_join,
)
from services.sla.domain.records import Facts, IncidentStatus
from shared.contracts.sla import EscalationRaised, IncidentClosed, IncidentOpened
from shared.contracts.ticket import TicketRef
from shared.policy import batch_members
from tests.unit.policy.tickets import at as local
from tests.unit.sla.parts import HOUR, MINUTE, STEP, T0, book, facts, play, published, run


class Stage:
    """Complaints of one problem, given to the detection one by one."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now
        self.around = Neighbourhood()
        self.known: dict[UUID, Facts] = {}

    def complain(self, at: datetime, *, tier: str = "ordinary", customer: str | None = None) -> Facts:
        number = len(self.known) + 1
        key = customer or f"c{number}"
        held = facts(number, accepted_at=at, submitted_at=at, customer={"key": key, "tier": tier, "brand": "mzone"})
        self.known[held.ticket_id] = held
        detect_batch(book(), held, self.around, self.known, self.now or at)
        return held

    @property
    def members(self) -> int:
        return sum(each.incident_id is not None for each in self.known.values())


def earlier(accepted_at: datetime, archived_at: datetime | None = None) -> Earlier:
    return Earlier(TicketRef(ticket_id=UUID(int=99), ticket_no="T20260101-0000099"), accepted_at, archived_at)


# ---- batch: GDM-D6, BC-01 to BC-03 -----------------------------------------------------------------------------------


def test_nine_complaints_are_no_batch_and_the_tenth_opens_an_incident() -> None:
    stage = Stage()
    for minute in range(9):
        stage.complain(T0 + minute * MINUTE)
    assert stage.members == 0
    tenth = stage.complain(T0 + 9 * MINUTE)
    (incident,) = stage.around.incidents
    assert stage.members == incident.member_count == 10
    opened = incident.pending[0]
    assert isinstance(opened.event, IncidentOpened)
    assert (opened.version, len(opened.event.members)) == (1, 10)
    assert (incident.first_at, incident.last_at) == (T0, T0 + 9 * MINUTE)
    for each in stage.known.values():
        assert published(each) == ["incident.joined", "escalation.raised"]
        assert each.has_class("batch")
    raised = tenth.pending[1].event
    assert isinstance(raised, EscalationRaised)
    assert (raised.kind, raised.incident_id, [mark.code for mark in raised.adds]) == (
        "batch",
        incident.incident_id,
        ["batch"],
    )


@pytest.mark.parametrize(("span", "members"), [(60 * MINUTE - STEP, 10), (60 * MINUTE, 0)])
def test_the_window_is_open_at_its_beginning(span: timedelta, members: int) -> None:
    """A window is (x - 60 min, x]."""
    stage = Stage()
    stage.complain(T0)
    for _ in range(9):
        stage.complain(T0 + span)
    assert stage.members == members


def test_five_vip_customers_are_a_batch_and_five_tickets_of_one_are_not() -> None:
    stage = Stage()
    for minute in range(6):
        stage.complain(T0 + minute * MINUTE, tier="vip", customer="same")
    for minute in range(3):
        stage.complain(T0 + minute * MINUTE, tier="gold")
    assert stage.members == 0
    stage.complain(T0 + 4 * MINUTE, tier="diamond")
    assert stage.members == 10


@pytest.mark.parametrize("seed", range(30))
def test_the_order_of_arrival_does_not_matter(seed: int) -> None:
    times = [T0 + minute * MINUTE for minute in range(0, 100, 5)]
    lonely = [T0 - 50 * MINUTE, T0 + 150 * MINUTE, T0 + 300 * MINUTE]
    times += lonely
    random.Random(seed).shuffle(times)
    stage = Stage()
    for at in times:
        stage.complain(at)
    # The first shares no full window, the second came before it was quiet, the third after.
    assert [each.ticket.accepted_at for each in stage.known.values() if each.incident_id is None] == [
        each for each in times if each in (lonely[0], lonely[2])
    ]
    (incident,) = stage.around.incidents
    assert (incident.first_at, incident.last_at, incident.member_count) == (T0, T0 + 150 * MINUTE, 21)


@pytest.mark.parametrize("seed", range(5))
def test_members_are_the_same_over_half_a_day_of_shuffled_complaints(seed: int) -> None:
    spread = random.Random(7)
    times = [T0 + spread.choice([spread.uniform(0, 600), spread.gauss(300, 25)]) * MINUTE for _ in range(120)]
    order = list(enumerate(times))
    random.Random(seed).shuffle(order)
    stage = Stage(now=T0 + 24 * HOUR)
    for number, at in order:
        stage.complain(at, customer=f"k{number}")
    members = {each.ticket.customer.key for each in stage.known.values() if each.incident_id is not None}
    plain = Stage(now=T0 + 24 * HOUR)
    for number, at in enumerate(times):
        plain.complain(at, customer=f"k{number}")
    assert members == {each.ticket.customer.key for each in plain.known.values() if each.incident_id is not None}
    strict = batch_members(book().pack, [each.complaint for each in stage.known.values()])
    assert strict <= {each.ticket_id for each in stage.known.values() if each.incident_id is not None}
    assert sum(each.member_count for each in stage.around.incidents) == len(members) > 60


def test_later_ones_join_at_once_and_a_late_earlier_one_where_it_belongs() -> None:
    stage = Stage()
    for minute in range(10):
        stage.complain(T0 + minute * MINUTE)
    assert stage.complain(T0 + 69 * MINUTE).incident_id is not None
    assert stage.complain(T0 + 30 * MINUTE).incident_id is not None
    # Within the hour before, with enough of the others in one window; and one that shares a window with none.
    assert stage.complain(T0 - 50 * MINUTE).incident_id is not None
    assert stage.complain(T0 - 3 * HOUR).incident_id is None
    (incident,) = stage.around.incidents
    assert (incident.first_at, incident.member_count) == (T0 - 50 * MINUTE, 13)


def test_a_complaint_after_the_quiet_time_begins_anew() -> None:
    stage = Stage()
    for minute in range(10):
        stage.complain(T0 + minute * MINUTE)
    assert stage.complain(T0 + 3 * HOUR).incident_id is None
    for minute in range(1, 10):
        stage.complain(T0 + 3 * HOUR + minute * MINUTE)
    first, second = stage.around.incidents
    assert (first.status, second.status) == (IncidentStatus.closed, IncidentStatus.open)
    assert (first.version, second.version) == (2, 1)
    assert second.member_count == 10


def test_a_batch_found_late_is_closed_at_once_when_the_next_one_is_open() -> None:
    stage = Stage()
    for minute in range(10):
        stage.complain(T0 + 5 * HOUR + minute * MINUTE)
    for minute in range(10):
        stage.complain(T0 + minute * MINUTE)
    now, past = stage.around.incidents
    assert (now.status, past.status, past.member_count) == (IncidentStatus.open, IncidentStatus.closed, 10)
    closed = past.pending[1].event
    assert isinstance(closed, IncidentClosed)
    assert closed.member_count == 10


def test_a_late_complaint_joins_an_incident_that_is_closed() -> None:
    stage = Stage()
    for minute in range(10):
        stage.complain(T0 + minute * MINUTE)
    (incident,) = stage.around.incidents
    close(book(), incident, T0 + 2 * HOUR)
    close(book(), incident, T0 + 3 * HOUR)
    assert stage.complain(T0 + 40 * MINUTE).incident_id == incident.incident_id
    assert (incident.version, incident.last_at) == (2, T0 + 9 * MINUTE)


def test_an_inquiry_does_not_count() -> None:
    stage = Stage()
    for minute in range(9):
        stage.complain(T0 + minute * MINUTE)
    held = facts(50, kind="inquiry", accepted_at=T0 + 9 * MINUTE)
    detect_batch(book(), held, stage.around, stage.known, T0)
    assert held.incident_id is None


def test_a_member_that_ended_is_counted_but_nobody_is_alarmed_about_it() -> None:
    stage = Stage()
    stage.complain(T0).ended = True
    for minute in range(1, 10):
        stage.complain(T0 + minute * MINUTE)
    assert stage.members == 10
    assert published(stage.known[UUID(int=1)]) == ["incident.joined"]


def test_becoming_a_member_shortens_a_running_resolution() -> None:
    stage = Stage()
    first = stage.complain(T0)
    play(first, "ticket.registered", T0)
    assert run(first, "resolution").due_at == T0 + 96 * HOUR
    for minute in range(1, 10):
        stage.complain(T0 + minute * MINUTE)
    assert (run(first, "resolution").rule, run(first, "resolution").due_at) == ("GDM-L7", T0 + 48 * HOUR)


def test_only_stored_complaints_that_may_become_members_are_locked() -> None:
    stored = [facts(number, accepted_at=T0 + number * MINUTE).complaint for number in range(1, 10)]
    fresh = facts(10, accepted_at=T0 + 10 * MINUTE).complaint
    around = Neighbourhood()
    for each in stored:
        around.add(each)
    assert may_join(book(), [fresh], around) == {each.ticket_id for each in stored}
    fewer = Neighbourhood()
    for each in stored[1:]:
        fewer.add(each)
    assert may_join(book(), [fresh], fewer) == set()


# ---- repeat: GDM-D7, DET-05 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("archived_at", "repeated"),
    [
        ("2026-08-22T10:00:00+08:00", True),
        ("2026-08-22T09:59:59+08:00", False),
        ("2026-11-22T10:00:00+08:00", True),
        ("2026-11-22T10:00:01+08:00", False),
    ],
)
def test_a_repeat_is_counted_in_calendar_months_from_the_archiving(archived_at: str, repeated: bool) -> None:
    held = facts()
    assert held.ticket.accepted_at == local("2026-11-22T10:00:00+08:00")
    detect_repeat(book(), held, [earlier(T0 - 9000 * HOUR, local(archived_at))], T0)
    assert held.has_class("repeat") is repeated
    assert published(held) == (["escalation.raised"] if repeated else [])


def test_a_ticket_in_process_makes_no_repeat_and_a_repeat_is_said_once() -> None:
    held = facts()
    detect_repeat(book(), held, [earlier(T0 - HOUR)], T0)
    assert not held.pending
    found = [earlier(T0 - 90 * HOUR, T0 - 80 * HOUR), earlier(T0 - 50 * HOUR, T0 - 40 * HOUR)]
    detect_repeat(book(), held, found, T0)
    detect_repeat(book(), held, found, T0)
    (item,) = held.pending
    assert isinstance(item.event, EscalationRaised)
    assert item.event.earlier == found[1].ref


# ---- appeal: SCM-1, DET-06, BC-13 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "appeal"),
    [(STEP, True), (4 * HOUR, True), (4 * HOUR + timedelta(seconds=1), False), (timedelta(0), False)],
)
def test_a_second_complaint_within_four_hours_is_an_appeal(after: timedelta, appeal: bool) -> None:
    held = facts()
    detect_appeal(book(), held, [earlier(T0 - after)], T0)
    assert held.has_class("appeal") is appeal
    assert len(held.pending) == int(appeal)


def test_an_appeal_is_said_once() -> None:
    held = facts()
    detect_appeal(book(), held, [earlier(T0 - HOUR)], T0)
    detect_appeal(book(), held, [earlier(T0 - 2 * HOUR)], T0)
    assert published(held) == ["escalation.raised"]

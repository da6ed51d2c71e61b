"""Found among many complaints: the same again (GDM-D7), again within hours (SCM-1), many at once (GDM-D6).

Time is event time, the moment of acceptance. Complaints that come late or out of order count where they belong.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import nsmallest
from uuid import UUID

from services.sla.domain.clocks import recompute_by_class
from services.sla.domain.records import Facts, Incident, IncidentStatus, Rulebook
from shared.contracts.sla import IncidentClosed, IncidentJoined, IncidentOpened, Problem
from shared.contracts.ticket import ClassMark, TicketRef
from shared.ids import new_id
from shared.policy import Complaint, assess, batch_members, class_mark, is_appeal, is_repeat

NEAREST_TIMES = 20


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier ticket of a customer. `archived_at` is None while it is in process."""

    ref: TicketRef
    accepted_at: datetime
    archived_at: datetime | None = None


@dataclass(slots=True)
class Neighbourhood:
    """What is known around the complaints of one problem: its incidents, and complaints near in time.

    `loose` are those of the complaints that belong to no incident, `incident_of` tells of the others.
    """

    incidents: list[Incident] = field(default_factory=list)
    complaints: dict[UUID, Complaint] = field(default_factory=dict)
    loose: dict[UUID, Complaint] = field(default_factory=dict)
    incident_of: dict[UUID, UUID] = field(default_factory=dict)

    def add(self, complaint: Complaint, incident_id: UUID | None = None) -> None:
        self.complaints[complaint.ticket_id] = complaint
        if incident_id is None:
            self.loose[complaint.ticket_id] = complaint
        else:
            self.incident_of[complaint.ticket_id] = incident_id
            self.loose.pop(complaint.ticket_id, None)


def window(book: Rulebook) -> timedelta:
    return timedelta(minutes=book.pack.detection.batch.window_minutes)


def quiet(book: Rulebook) -> timedelta:
    return timedelta(minutes=book.pack.detection.batch.quiet_minutes)


def add_classes(book: Rulebook, facts: Facts, marks: Iterable[ClassMark], at: datetime) -> tuple[ClassMark, ...]:
    """Give the ticket these classes; its urgency and a running resolution clock follow. Gives those that were new."""
    fresh = tuple(mark for mark in marks if not facts.has_class(mark.code))
    if fresh:
        facts.ticket = assess(book.pack, facts.ticket, add=fresh)
        facts.added = (*facts.added, *fresh)
        facts.changed = True
        recompute_by_class(book, facts, at)
    return fresh


# ---- the same customer again -----------------------------------------------------------------------------------------


def detect_repeat(book: Rulebook, facts: Facts, earlier: Iterable[Earlier], now: datetime) -> None:
    """Same customer, same problem, an earlier ticket archived within the last calendar months (GDM-D7, DET-05)."""
    rule = book.pack.detection.repeat
    accepted_at = facts.ticket.accepted_at
    found = [
        each
        for each in earlier
        if each.archived_at is not None
        and each.ref.ticket_id != facts.ticket_id
        and is_repeat(book.pack, each.archived_at, accepted_at)
    ]
    if not found or any(mark.code == rule.adds for mark in facts.added):
        return
    last = max(found, key=lambda each: each.archived_at or each.accepted_at)
    adds = add_classes(book, facts, (class_mark(book.pack, rule.adds),), now)
    months = rule.calendar_months
    facts.escalate(
        "repeat",
        f"{months} 个月内同一客户同一问题再次投诉,前次工单 {last.ref.ticket_no} / "
        f"Same customer and problem again within {months} months, earlier ticket {last.ref.ticket_no}",
        book.basis(rule.id),
        now,
        earlier=last.ref,
        adds=adds,
    )


def detect_appeal(book: Rulebook, facts: Facts, earlier: Iterable[Earlier], now: datetime) -> None:
    """A second complaint of the customer within hours (SCM-1, DET-06), said once a ticket. `earlier` are the customer's
    complaints, of the same problem only where the pack asks for it."""
    rule = book.pack.detection.appeal
    found = [
        each
        for each in earlier
        if each.ref.ticket_id != facts.ticket_id and is_appeal(book.pack, each.accepted_at, facts.ticket.accepted_at)
    ]
    if not found or not facts.counts or facts.is_appeal:
        return
    last = max(found, key=lambda each: each.accepted_at)
    marks = (class_mark(book.pack, rule.adds),) if rule.adds is not None else ()
    adds = add_classes(book, facts, marks, now)
    facts.escalate(
        "appeal",
        f"{rule.within_hours:g} 小时内第二次投诉,前次工单 {last.ref.ticket_no} / "
        f"Second complaint within {rule.within_hours:g} h, earlier ticket {last.ref.ticket_no}",
        book.basis(rule.id),
        now,
        earlier=last.ref,
        adds=adds,
    )


# ---- many complaints of one problem ----------------------------------------------------------------------------------


def covering(book: Rulebook, incidents: Iterable[Incident], at: datetime) -> Incident | None:
    """The incident a complaint of that time belongs to without counting: within its span, or before it is quiet."""
    return next((each for each in incidents if each.first_at <= at <= each.last_at + quiet(book)), None)


def detect_batch(
    book: Rulebook, facts: Facts, around: Neighbourhood, known: Mapping[UUID, Facts], now: datetime
) -> None:
    """Put a complaint into the incident it belongs to, or open one when it completes a batch (GDM-D6, DET-09).

    Whatever the order of arrival, the members are the same: loose complaints that the incident now covers, or that
    share a full window with the new one, join with it. `known` holds the facts of all that may join.
    """
    if facts.problem is None or not facts.counts or facts.incident_id is not None:
        return
    around.add(facts.complaint)
    at = facts.ticket.accepted_at
    grew = _admit(book, facts, around, known, now)
    while grew and around.loose:
        grew = False
        for loose in list(around.loose.values()):
            near = abs(loose.at - at) < window(book) or covering(book, around.incidents, loose.at) is not None
            if near and loose.ticket_id in known and loose.ticket_id in around.loose:
                grew = _admit(book, known[loose.ticket_id], around, known, now) or grew


def _admit(book: Rulebook, facts: Facts, around: Neighbourhood, known: Mapping[UUID, Facts], now: datetime) -> bool:
    """Make a complaint a member where it belongs, with the loose ones of its windows. False when it belongs nowhere."""
    if facts.problem is None:
        return False
    incident, members = _place(book, around, facts.complaint)
    joining = [known[each] for each in sorted(members) if each in known]
    if not joining:
        return False
    if incident is None:
        incident = _open(book, facts.problem, joining, around, now)
    for member in joining:
        _join(book, incident, member, around, now)
    return True


def _place(book: Rulebook, around: Neighbourhood, complaint: Complaint) -> tuple[Incident | None, set[UUID]]:
    """Where a complaint belongs, and which loose ones with it: (incident, itself) where one covers it, (incident or
    None for a new one, the members of its windows) where a threshold is reached, else (None, nobody)."""
    incident = covering(book, around.incidents, complaint.at)
    if incident is not None:
        return incident, {complaint.ticket_id}
    members = batch_members(book.pack, _nearest(book, around.complaints.values(), complaint.at))
    if complaint.ticket_id not in members:
        return None, set()
    adjacent = {around.incident_of[each] for each in members if each in around.incident_of}
    incident = next(
        (each for each in around.incidents if each.incident_id in adjacent and _takes(each, complaint.at)), None
    )
    return incident, {each for each in members if each in around.loose}


def _nearest(book: Rulebook, complaints: Iterable[Complaint], at: datetime) -> list[Complaint]:
    """The complaints that may share a window with one of that time, the nearest in a number that decides every case but
    that of a few customers who complain without end."""
    low, high = at - window(book), at + window(book)
    near = [each for each in complaints if low < each.at < high]
    rule = book.pack.detection.batch
    enough = NEAREST_TIMES * max(rule.ordinary_tickets, rule.vip_customers)
    return near if len(near) <= enough else nsmallest(enough, near, key=lambda each: abs(each.at - at))


def _takes(incident: Incident, at: datetime) -> bool:
    """Whether a batch around that time, which shares members with the incident, belongs to it."""
    return incident.status is IncidentStatus.open or at < incident.first_at


def _open(book: Rulebook, problem: Problem, members: list[Facts], around: Neighbourhood, now: datetime) -> Incident:
    """Open an incident. One open incident a problem: the one that is quiet by event time closes first, and a batch
    found so late that the next one is open already is closed at once."""
    times = [member.ticket.accepted_at for member in members]
    incident = Incident(
        ticket_id=new_id(),
        problem=problem,
        first_at=min(times),
        last_at=max(times),
        opened_at=now,
        is_new=True,
        changed=True,
    )
    incident.record(
        IncidentOpened(
            incident_id=incident.incident_id,
            problem=problem,
            first_at=incident.first_at,
            last_at=incident.last_at,
            members=tuple(member.ref for member in members),
            basis=book.basis(book.pack.detection.batch.id),
        ),
        now,
    )
    is_past = False
    for other in around.incidents:
        if other.status is IncidentStatus.open:
            if other.last_at < incident.first_at:
                close(book, other, now)
            else:
                is_past = True
    if is_past:
        # Its members join below; the count in its closing event is theirs.
        incident.member_count = len(members)
        close(book, incident, now)
        incident.member_count = 0
    around.incidents.append(incident)
    return incident


def _join(book: Rulebook, incident: Incident, facts: Facts, around: Neighbourhood, now: datetime) -> None:
    """Make a ticket a member. A closed incident grows in the past only: what goes on now must open a new one."""
    rule = book.pack.detection.batch
    at = facts.ticket.accepted_at
    facts.incident_id = incident.incident_id
    facts.changed = True
    around.add(facts.complaint, incident.incident_id)
    incident.member_count += 1
    incident.first_at = min(incident.first_at, at)
    if incident.status is IncidentStatus.open or at + quiet(book) < now:
        incident.last_at = max(incident.last_at, at)
    incident.changed = True
    facts.record(
        IncidentJoined(ticket_no=facts.ticket_no, incident_id=incident.incident_id, problem=incident.problem), now
    )
    if facts.ended:
        return
    adds = add_classes(book, facts, (class_mark(book.pack, rule.adds),), now)
    minutes = rule.window_minutes
    facts.escalate(
        "batch",
        f"{minutes:g} 分钟内同一问题大量投诉 / Many complaints of one problem within {minutes:g} min",
        book.basis(rule.id),
        now,
        incident_id=incident.incident_id,
        adds=adds,
    )


def close(book: Rulebook, incident: Incident, now: datetime) -> None:
    """No complaint of the problem came for the quiet time; or the next incident of it begins."""
    if incident.status is IncidentStatus.closed:
        return
    incident.status = IncidentStatus.closed
    incident.closed_at = now
    incident.changed = True
    incident.record(
        IncidentClosed(
            incident_id=incident.incident_id,
            problem=incident.problem,
            first_at=incident.first_at,
            last_at=incident.last_at,
            member_count=incident.member_count,
            basis=book.basis(book.pack.detection.batch.id),
        ),
        now,
    )


def may_join(book: Rulebook, fresh: Iterable[Complaint], around: Neighbourhood) -> set[UUID]:
    """Stored loose complaints that may become members because of the fresh ones; their facts must be locked."""
    complaints = around.complaints | {each.ticket_id: each for each in fresh}
    times = [each.at for each in complaints.values()]
    low, high = min(times) - window(book) - quiet(book), max(times) + window(book)
    if not any(each.last_at >= low and each.first_at <= high for each in around.incidents):
        if not batch_members(book.pack, list(complaints.values())):
            return set()
    return set(around.loose)

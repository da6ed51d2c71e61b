"""What the events of intake, review and dispatch mean to sla: facts, clocks, and detection.

Between publishers nothing is ordered. An event on a ticket that is not registered here waits (parked by the plumbing);
a stop that comes before its start is remembered (`domain/clocks.py`).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.sla.domain import clocks, detection
from services.sla.domain.detection import Earlier, Neighbourhood
from services.sla.domain.records import Facts, Incident, Rulebook
from services.sla.repository import facts as facts_table
from services.sla.repository import incidents as incidents_table
from services.sla.usecases.desk import Desk, lock_facts, save_facts
from shared.contracts.dispatch import OrderDispatched, OrderRaised, OrderReturned, TicketClosed, TicketReopened
from shared.contracts.intake import TicketAnswered, TicketRegistered, TicketSupplemented, TicketWithdrawn
from shared.contracts.registry import MODELS
from shared.contracts.review import ReviewApproved, ReviewMerged, ReviewReclassified
from shared.contracts.sla import Problem
from shared.contracts.ticket import TicketSnapshot
from shared.database.engine import Transaction
from shared.errors import NotYet
from shared.messaging.events import Event
from shared.policy import Complaint, Pack, assess, counts_for_batch, is_vip, problem_of

MONTH = timedelta(days=31)

ENDS = frozenset({TicketClosed.TYPE, TicketWithdrawn.TYPE, TicketAnswered.TYPE, ReviewMerged.TYPE})
SNAPSHOTS = frozenset({TicketSupplemented.TYPE, ReviewReclassified.TYPE, ReviewApproved.TYPE})


@dataclass(slots=True)
class Watch:
    """The state of one batch. `archived` and `accepted` hold what stored earlier tickets say about repeats."""

    now: datetime
    book: Rulebook
    facts: dict[UUID, Facts]
    around: dict[str, Neighbourhood]
    archived: dict[tuple[str, str], list[Earlier]]
    accepted: dict[str, list[tuple[str | None, Earlier]]]


@dataclass(frozen=True, slots=True)
class _Carried:
    """A ticket as an event carries it, with its problem."""

    event: Event
    ticket: TicketSnapshot
    problem: Problem | None
    complaint: Complaint | None


class SlaProjection:
    """The projection of sla."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._changes: dict[str, Callable[[Watch, Facts, Event], None]] = {
            TicketSupplemented.TYPE: self.on_snapshot,
            ReviewReclassified.TYPE: self.on_snapshot,
            ReviewApproved.TYPE: self.on_snapshot,
            OrderDispatched.TYPE: self.on_order_dispatched,
            OrderReturned.TYPE: self.on_order_returned,
            OrderRaised.TYPE: self.on_order_raised,
            TicketReopened.TYPE: self.on_ticket_reopened,
        }
        triggers = desk.pack.triggers
        clocked = {*triggers.start, *triggers.stop, *desk.pack.terminal_events} & set(MODELS)
        self.types = frozenset({TicketRegistered.TYPE, *self._changes, *ENDS, *clocked})

    # ---- loading -------------------------------------------------------------------------------------------------

    async def load(self, transaction: Transaction, events: Sequence[Event]) -> Watch:
        connection = transaction.connection
        pack = self._desk.pack
        book = await self._desk.book(connection)
        wanted = [event for event in events if event.type in self.types]
        carried = [_carried(pack, event) for event in wanted if event.type in SNAPSHOTS | {TicketRegistered.TYPE}]
        fresh = [each for each in carried if each.event.type == TicketRegistered.TYPE]
        known = await facts_table.problem_keys(connection, {each.event.subject for each in carried} if carried else ())
        moving = [
            each for each in carried if each.problem is not None and known.get(each.event.subject) != each.problem.key
        ]
        around, members = await self._neighbourhoods(transaction, book, moving)
        ids = {event.subject for event in wanted} | members
        closed = {event.subject: event.time for event in wanted if event.type == TicketClosed.TYPE}
        if closed:
            ids |= await facts_table.accepted_after(connection, closed)
        pairs = {(each.ticket.customer.key, each.problem.key) for each in fresh if each.problem is not None}
        archived: dict[tuple[str, str], list[Earlier]] = {}
        if pairs:
            since = min(each.ticket.accepted_at for each in fresh) - MONTH * (pack.detection.repeat.calendar_months + 1)
            archived = await facts_table.archived_of(connection, pairs, since)
        accepted: dict[str, list[tuple[str | None, Earlier]]] = {}
        if counting := [each for each in fresh if each.complaint is not None]:
            accepted = await facts_table.accepted_of(
                connection,
                [(each.ticket.customer.key, each.ticket.accepted_at) for each in counting],
                timedelta(hours=pack.detection.appeal.within_hours),
            )
        facts = await lock_facts(connection, ids)
        return Watch(self._desk.clock.now(), book, facts, around, archived, accepted)

    async def _neighbourhoods(
        self, transaction: Transaction, book: Rulebook, carried: Sequence[_Carried]
    ) -> tuple[dict[str, Neighbourhood], set[UUID]]:
        """Lock the problems that these tickets come to and read what lies near; and the stored complaints that may
        become members. For one that an incident covers nothing is counted, however many there are of it."""
        complaints: dict[str, dict[UUID, Complaint]] = {}
        for each in carried:
            if each.complaint is not None and each.problem is not None:
                complaints.setdefault(each.problem.key, {})[each.complaint.ticket_id] = each.complaint
        if not complaints:
            return {}, set()
        connection = transaction.connection
        await facts_table.lock_problems(connection, complaints)
        earliest = min(each.at for group in complaints.values() for each in group.values())
        window, quiet = detection.window(book), detection.quiet(book)
        incidents = await incidents_table.of_problems(connection, complaints, earliest - window - quiet)
        around = {key: Neighbourhood(incidents.get(key, [])) for key in complaints}
        reaches = []
        for key, group in complaints.items():
            low = min([each.at for each in group.values()] + [each.first_at for each in around[key].incidents])
            high = max([each.at for each in group.values()] + [each.last_at for each in around[key].incidents])
            reaches.append((key, low - window, high + max(window, quiet)))
        for key, complaint in await facts_table.loose_complaints(connection, reaches):
            around[key].add(complaint)
        spans = [
            (key, low - window, high + window)
            for key, group in complaints.items()
            for low, high in _clusters(_in_question(book, list(group.values()), around[key]), window)
        ]
        for key, complaint, incident_id in await facts_table.complaints_near(connection, spans) if spans else ():
            around[key].add(complaint, incident_id)
        members: set[UUID] = set()
        for key, near in around.items():
            members |= detection.may_join(book, complaints[key].values(), near)
        return around, members

    # ---- applying ------------------------------------------------------------------------------------------------

    def apply(self, state: Watch, event: Event) -> None:
        facts = state.facts.get(event.subject)
        if event.type == TicketRegistered.TYPE:
            if facts is None:
                self.on_ticket_registered(state, event)
            return
        if facts is None:
            raise NotYet("the ticket is not registered here yet")
        if (change := self._changes.get(event.type)) is not None:
            change(state, facts, event)
        self._clocks(state, facts, event)
        if event.type in ENDS:
            self.on_ticket_ended(state, facts, event)
        facts.changed = True

    def on_ticket_registered(self, state: Watch, event: Event) -> None:
        """Classes come first, so that the clocks begin with the limits that hold."""
        data: TicketRegistered = event.data
        pack = state.book.pack
        facts = Facts(
            ticket_id=event.subject,
            ticket=data.ticket,
            problem=problem_of(pack, data.ticket),
            vip=is_vip(pack, data.ticket),
            counts=counts_for_batch(pack, data.ticket),
            is_new=True,
            changed=True,
        )
        state.facts[event.subject] = facts
        customer = data.ticket.customer.key
        if facts.problem is not None:
            detection.detect_repeat(state.book, facts, state.archived.get((customer, facts.problem.key), ()), state.now)
        if facts.counts:
            earlier = state.accepted.setdefault(customer, [])
            same = pack.detection.appeal.same_problem
            key = facts.problem.key if facts.problem is not None else None
            detection.detect_appeal(
                state.book, facts, (each for problem, each in earlier if problem == key or not same), state.now
            )
            earlier.append((key, Earlier(facts.ref, data.ticket.accepted_at)))
        self._batch(state, facts)
        self._clocks(state, facts, event)

    def on_snapshot(self, state: Watch, facts: Facts, event: Event) -> None:
        """The ticket as intake or review now see it. Classes that sla or dispatch found stay on it."""
        given: TicketSnapshot = event.data.ticket
        pack = state.book.pack
        known = {mark.code for mark in given.classes}
        missing = tuple(mark for mark in facts.added if mark.code not in known)
        if event.type == TicketSupplemented.TYPE:
            # Intake does not know what review added.
            missing = tuple(mark for mark in facts.ticket.classes if mark.code not in known)
        facts.ticket = assess(pack, given, add=missing) if missing else given
        facts.vip = is_vip(pack, given)
        facts.counts = counts_for_batch(pack, given)
        problem = problem_of(pack, given)
        if problem != facts.problem:
            facts.problem = problem
            self._batch(state, facts)
        clocks.recompute_by_class(state.book, facts, event.time)

    def on_order_dispatched(self, state: Watch, facts: Facts, event: Event) -> None:
        facts.branch = event.data.branch

    def on_order_returned(self, state: Watch, facts: Facts, event: Event) -> None:
        data: OrderReturned = event.data
        if not data.redispatched:
            facts.branch = None

    def on_order_raised(self, state: Watch, facts: Facts, event: Event) -> None:
        data: OrderRaised = event.data
        detection.add_classes(state.book, facts, data.classes, event.time)

    def on_ticket_reopened(self, state: Watch, facts: Facts, event: Event) -> None:
        facts.ended = False
        facts.archived_at = None

    def on_ticket_ended(self, state: Watch, facts: Facts, event: Event) -> None:
        """A closed ticket is archived; a complaint of the same customer and problem made after it is a repeat."""
        facts.ended = True
        if event.type != TicketClosed.TYPE:
            return
        facts.archived_at = event.time
        if facts.problem is None:
            return
        earlier = Earlier(facts.ref, facts.ticket.accepted_at, facts.archived_at)
        customer = facts.ticket.customer.key
        state.archived.setdefault((customer, facts.problem.key), []).append(earlier)
        for later in list(state.facts.values()):
            same = later.ticket.customer.key == customer and later.problem == facts.problem
            if same and not later.ended and later.ticket.accepted_at >= event.time:
                detection.detect_repeat(state.book, later, (earlier,), state.now)

    def _batch(self, state: Watch, facts: Facts) -> None:
        if facts.problem is not None and facts.counts and facts.problem.key in state.around:
            around = state.around[facts.problem.key]
            detection.detect_batch(state.book, facts, around, state.facts, state.now)

    def _clocks(self, state: Watch, facts: Facts, event: Event) -> None:
        calendar = state.book.calendar
        holiday = not calendar.is_working_day(calendar.local_date(event.time))
        data: dict[str, Any] = {**event.data.__dict__, "holiday": holiday}
        clocks.carry_out(state.book, facts, event.type, data, event.time)

    # ---- saving --------------------------------------------------------------------------------------------------

    async def save(self, transaction: Transaction, state: Watch) -> None:
        touched = [facts for _, facts in sorted(state.facts.items()) if facts.changed or facts.pending]
        incidents = _changed(state.around.values())
        for incident in incidents:
            transaction.publish_pending(incident)
        if incidents:
            await incidents_table.save(transaction.connection, incidents)
        if touched:
            await save_facts(self._desk, transaction, touched, state.now)

    async def on_new_log(self, transaction: Transaction) -> None:
        """Nobody outside reads sla's topic; the other services ask for a replay themselves."""


def _carried(pack: Pack, event: Event) -> _Carried:
    ticket: TicketSnapshot = event.data.ticket
    problem = problem_of(pack, ticket)
    complaint = None
    if problem is not None and counts_for_batch(pack, ticket):
        complaint = Complaint(event.subject, ticket.customer.key, is_vip(pack, ticket), ticket.accepted_at)
    return _Carried(event, ticket, problem, complaint)


def _in_question(book: Rulebook, fresh: list[Complaint], around: Neighbourhood) -> list[datetime]:
    """The moments around which complaints must be counted: fresh ones that no incident covers, and loose ones near a
    fresh one. Around a loose one there are few, or it would be a member."""
    times = sorted(each.at for each in fresh)
    window = detection.window(book)
    questions = [each for each in times if detection.covering(book, around.incidents, each) is None]
    for loose in around.loose.values():
        index = bisect_right(times, loose.at - window)
        if index < len(times) and times[index] < loose.at + window:
            questions.append(loose.at)
    return questions


def _clusters(times: list[datetime], gap: timedelta) -> list[tuple[datetime, datetime]]:
    """Times drawn together to (first, last) wherever no more than `gap` lies between neighbours."""
    clusters: list[tuple[datetime, datetime]] = []
    for at in sorted(times):
        if clusters and at - clusters[-1][1] <= gap:
            clusters[-1] = (clusters[-1][0], at)
        else:
            clusters.append((at, at))
    return clusters


def _changed(around: Iterable[Neighbourhood]) -> list[Incident]:
    return [incident for each in around for incident in each.incidents if incident.changed]

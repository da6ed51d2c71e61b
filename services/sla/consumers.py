"""What the events of intake, review and dispatch mean to sla: facts, clocks, and detection.

Between publishers nothing is ordered. An event on a ticket that is not registered here waits (parked by the plumbing);
a stop that comes before its start is remembered (`domain/clocks.py`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.sla.domain import clocks, detection
from services.sla.domain.detection import Earlier, Neighbourhood
from services.sla.domain.records import Facts, Incident, Rulebook
from services.sla.repository import facts as facts_table
from services.sla.repository import incidents as incidents_table
from services.sla.usecases.desk import Desk, lock_facts, save_facts
from services.sla.usecases.neighbours import neighbourhoods
from shared.contracts.dispatch import OrderDispatched, OrderRaised, TicketClosed, TicketReopened
from shared.contracts.erasure import blank
from shared.contracts.intake import TicketAnswered, TicketErased, TicketRegistered, TicketSupplemented, TicketWithdrawn
from shared.contracts.registry import MODELS
from shared.contracts.review import ReviewApproved, ReviewMerged, ReviewReclassified
from shared.contracts.sla import Problem
from shared.contracts.ticket import TicketSnapshot
from shared.database.engine import Database, Transaction
from shared.errors import NotYet
from shared.messaging.events import Event
from shared.policy import Complaint, Pack, assess, counts_for_batch, is_vip, problem_of

MONTH = timedelta(days=31)
_UNKNOWN = (None, None)

ENDS = frozenset({TicketClosed.TYPE, TicketWithdrawn.TYPE, TicketAnswered.TYPE, ReviewMerged.TYPE})
SNAPSHOTS = frozenset({TicketSupplemented.TYPE, ReviewReclassified.TYPE, ReviewApproved.TYPE})


@dataclass(slots=True)
class Watch:
    """The state of one batch. `archived` and `accepted` hold what stored earlier tickets say about repeats and appeals;
    `later` by customer the complaints that one before them may make an appeal."""

    now: datetime
    book: Rulebook
    facts: dict[UUID, Facts]
    around: dict[str, Neighbourhood]
    archived: dict[tuple[str, str], list[Earlier]]
    accepted: dict[str, list[tuple[str | None, Earlier]]]
    later: dict[str, set[UUID]] = field(default_factory=dict)


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
            OrderRaised.TYPE: self.on_order_raised,
            TicketReopened.TYPE: self.on_ticket_reopened,
            TicketErased.TYPE: self.on_ticket_erased,
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
        closed = {event.subject: event.time for event in wanted if event.type == TicketClosed.TYPE}
        looked_up = {each.event.subject for each in carried} | closed.keys()
        known = await facts_table.known_of(connection, looked_up) if looked_up else {}
        complaints: dict[str, dict[UUID, Complaint]] = {}
        for each in carried:
            if each.complaint is None or each.problem is None:
                continue
            if known.get(each.event.subject, _UNKNOWN)[1] != each.problem.key:
                complaints.setdefault(each.problem.key, {})[each.complaint.ticket_id] = each.complaint
        customers = {each.ticket.customer.key for each in fresh} | {known[each][0] for each in closed if each in known}
        if complaints or customers:
            await facts_table.hold(connection, complaints, customers)
        around, members = await neighbourhoods(connection, book, complaints)
        ids = {event.subject for event in wanted} | members
        if closed:
            ids |= await facts_table.accepted_after(connection, closed)
        pairs = {(each.ticket.customer.key, each.problem.key) for each in fresh if each.problem is not None}
        archived: dict[tuple[str, str], list[Earlier]] = {}
        if pairs:
            since = min(each.ticket.accepted_at for each in fresh) - MONTH * (pack.detection.repeat.calendar_months + 1)
            archived = await facts_table.archived_of(connection, pairs, since)
        accepted: dict[str, list[tuple[str | None, Earlier]]] = {}
        followers: set[UUID] = set()
        moments = [
            (each.ticket.customer.key, each.ticket.accepted_at) for each in fresh if counts_for_batch(pack, each.ticket)
        ]
        if moments:
            within = timedelta(hours=pack.detection.appeal.within_hours)
            accepted = await facts_table.accepted_of(connection, moments, within)
            followers = await facts_table.complaining_after(connection, moments, within)
        facts = await lock_facts(connection, ids | followers)
        later: dict[str, set[UUID]] = {}
        for ticket_id in followers & facts.keys():
            later.setdefault(facts[ticket_id].ticket.customer.key, set()).add(ticket_id)
        return Watch(self._desk.clock.now(), book, facts, around, archived, accepted, later)

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
            self._appeals(state, facts, customer)
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
        """The branch keeps the ticket in sight when it gives the order back, as in dispatch, until another has it."""
        facts.branch = event.data.branch

    def on_order_raised(self, state: Watch, facts: Facts, event: Event) -> None:
        data: OrderRaised = event.data
        detection.add_classes(state.book, facts, data.classes, event.time)

    def on_ticket_reopened(self, state: Watch, facts: Facts, event: Event) -> None:
        facts.ended = False
        facts.archived_at = None

    def on_ticket_erased(self, state: Watch, facts: Facts, event: Event) -> None:
        """Clocks, classes and the problem stay: they rest on codes, times and the city."""
        facts.ticket = blank(facts.ticket)

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

    def _appeals(self, state: Watch, facts: Facts, customer: str) -> None:
        """Whether this complaint is an appeal, and which ones that came before it are one because of it."""
        same = state.book.pack.detection.appeal.same_problem
        key = facts.problem.key if facts.problem is not None else None
        earlier = state.accepted.setdefault(customer, [])
        before = (each for problem, each in earlier if problem == key or not same)
        detection.detect_appeal(state.book, facts, before, state.now)
        this = Earlier(facts.ref, facts.ticket.accepted_at)
        earlier.append((key, this))
        later = state.later.setdefault(customer, set())
        for follower in (state.facts[each] for each in sorted(later)):
            if not follower.ended and (follower.problem == facts.problem or not same):
                detection.detect_appeal(state.book, follower, (this,), state.now)
        later.add(facts.ticket_id)

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

    async def on_new_log(self, database: Database, alive: Callable[[], None]) -> None:
        """Nobody outside reads sla's topic; the other services ask for a replay themselves."""


def _carried(pack: Pack, event: Event) -> _Carried:
    ticket: TicketSnapshot = event.data.ticket
    problem = problem_of(pack, ticket)
    complaint = None
    if problem is not None and counts_for_batch(pack, ticket):
        complaint = Complaint(event.subject, ticket.customer.key, is_vip(pack, ticket), ticket.accepted_at)
    return _Carried(event, ticket, problem, complaint)


def _changed(around: Iterable[Neighbourhood]) -> list[Incident]:
    return [incident for each in around for incident in each.incidents if incident.changed]

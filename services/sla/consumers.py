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
from services.sla.repository import customers as customers_table
from services.sla.repository import facts as facts_table
from services.sla.repository import incidents as incidents_table
from services.sla.repository.customers import History
from services.sla.usecases.desk import Desk, lock_facts, save_facts
from services.sla.usecases.neighbours import neighbourhoods
from shared.contracts.dispatch import OrderDispatched, OrderRaised, TicketClosed, TicketReopened
from shared.contracts.erasure import blank
from shared.contracts.intake import TicketAnswered, TicketErased, TicketRegistered, TicketSupplemented, TicketWithdrawn
from shared.contracts.registry import MODELS
from shared.contracts.review import ReviewApproved, ReviewMerged, ReviewReclassified
from shared.contracts.sla import Problem
from shared.contracts.ticket import TicketSnapshot
from shared.database.connection import Connection
from shared.database.engine import Database, Transaction
from shared.errors import NotYet
from shared.messaging.events import Event
from shared.policy import Complaint, Pack, assess, counts_for_batch, is_vip, problem_of

MONTH = timedelta(days=31)
_UNKNOWN = (None, None)

ENDS = frozenset({TicketClosed.TYPE, TicketWithdrawn.TYPE, TicketAnswered.TYPE, ReviewMerged.TYPE})
CARRYING = frozenset({TicketRegistered.TYPE, TicketSupplemented.TYPE, ReviewReclassified.TYPE, ReviewApproved.TYPE})
"""The events that carry the ticket."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A ticket as an event carries it, and what it is to the batch rule."""

    event: Event
    ticket: TicketSnapshot
    problem: Problem | None
    vip: bool
    counts: bool

    @property
    def complaint(self) -> Complaint | None:
        if self.problem is None or not self.counts:
            return None
        return Complaint(self.event.subject, self.ticket.customer.key, self.vip, self.ticket.accepted_at)


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
    carried: dict[int, Carried] = field(default_factory=dict)
    """By `id()` of the event's ticket: what `load` found out of it, so that `apply` need not ask again."""
    of_customer: dict[str, list[Facts]] | None = None
    """`facts` by customer, made at the first closing: looked through for each of 500 they cost 20 µs a ticket."""

    def facts_of(self, customer: str) -> list[Facts]:
        if self.of_customer is None:
            self.of_customer = {}
            for facts in self.facts.values():
                self.of_customer.setdefault(facts.customer_key, []).append(facts)
        return self.of_customer.get(customer, [])


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
        self._clocked = {*triggers.start, *triggers.stop, *desk.pack.terminal_events} & set(MODELS)
        self.types = frozenset({TicketRegistered.TYPE, *self._changes, *ENDS, *self._clocked})

    # ---- loading -------------------------------------------------------------------------------------------------

    async def load(self, transaction: Transaction, events: Sequence[Event]) -> Watch:
        connection = transaction.connection
        pack = self._desk.pack
        book = await self._desk.book(connection)
        wanted = [event for event in events if event.type in self.types]
        carried = [_carried(pack, event.data.ticket, event) for event in wanted if event.type in CARRYING]
        fresh = [each for each in carried if each.event.type == TicketRegistered.TYPE]
        closed = {event.subject: event.time for event in wanted if event.type == TicketClosed.TYPE}
        looked_up = {each.event.subject for each in carried} | closed.keys()
        known = await facts_table.known_of(connection, looked_up) if looked_up else {}
        complaints: dict[str, dict[UUID, Complaint]] = {}
        for each in carried:
            if each.problem is None or (complaint := each.complaint) is None:
                continue
            if known.get(each.event.subject, _UNKNOWN)[1] != each.problem.key:
                complaints.setdefault(each.problem.key, {})[complaint.ticket_id] = complaint
        customers = {each.ticket.customer.key for each in fresh} | {known[each][0] for each in closed if each in known}
        if complaints or customers:
            await facts_table.hold(connection, complaints, customers)
        around, members = await neighbourhoods(connection, book, complaints)
        # What is not known is not there: the plumbing holds the subjects.
        ids = {event.subject for event in wanted if event.subject in known or event.subject not in looked_up} | members
        if closed:
            ids |= await customers_table.accepted_after(connection, closed)
        history = await self._history(connection, fresh)
        facts = await lock_facts(connection, ids | history.followers, kinds=self.kinds_touched(wanted))
        watch = Watch(self._desk.clock.now(), book, facts, around, history.archived, history.accepted)
        watch.carried = {id(each.ticket): each for each in carried}
        for ticket_id in history.followers & facts.keys():
            watch.later.setdefault(facts[ticket_id].customer_key, set()).add(ticket_id)
        return watch

    async def _history(self, connection: Connection, fresh: Sequence[Carried]) -> History:
        """What the customers of these new tickets complained of before, and just after."""
        rules = self._desk.pack.detection
        pairs = [(each.ticket.customer.key, each.problem.key) for each in fresh if each.problem is not None]
        moments = [(each.ticket.customer.key, each.ticket.accepted_at) for each in fresh if each.counts]
        if not pairs and not moments:
            return History()
        since = min(each.ticket.accepted_at for each in fresh) - MONTH * (rules.repeat.calendar_months + 1)
        within = timedelta(hours=rules.appeal.within_hours)
        return await customers_table.history_of(connection, pairs, since, moments, within)

    def kinds_touched(self, wanted: Sequence[Event]) -> frozenset[str] | None:
        """The kinds of clocks that these events may touch on tickets which are stored; None for all."""
        kinds: set[str] = set(self._desk.pack.triggers.by_class)
        for event_type in {event.type for event in wanted}:
            if event_type in self._desk.pack.terminal_events:
                return None
            kinds |= self._desk.pack.triggers.kinds_of(event_type)
        return frozenset(kinds)

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
        ticket: TicketSnapshot = event.data.ticket
        read = _read(state, event, ticket)
        customer = ticket.customer.key
        facts = Facts(
            ticket_id=event.subject,
            ticket_no=ticket.ticket_no,
            customer_key=customer,
            snapshot=ticket,
            problem=read.problem,
            vip=read.vip,
            counts=read.counts,
            is_new=True,
            changed=True,
        )
        state.facts[event.subject] = facts
        if state.of_customer is not None:
            state.of_customer.setdefault(customer, []).append(facts)
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
        if given.customer.key != facts.customer_key:
            state.of_customer = None
        facts.ticket = assess(pack, given, add=missing) if missing else given
        read = _read(state, event, given)
        facts.vip, facts.counts = read.vip, read.counts
        if read.problem != facts.problem:
            facts.problem = read.problem
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
        customer = facts.customer_key
        state.archived.setdefault((customer, facts.problem.key), []).append(earlier)
        for later in state.facts_of(customer):
            if later.problem == facts.problem and not later.ended and later.ticket.accepted_at >= event.time:
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
        # What is one already stays one: a customer who complains without end must not be looked at ever longer.
        later -= {each for each in later if state.facts[each].is_appeal}

    def _batch(self, state: Watch, facts: Facts) -> None:
        if facts.problem is not None and facts.counts and facts.problem.key in state.around:
            around = state.around[facts.problem.key]
            detection.detect_batch(state.book, facts, around, state.facts, state.now)

    def _clocks(self, state: Watch, facts: Facts, event: Event) -> None:
        if event.type not in self._clocked:
            return
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


def _carried(pack: Pack, ticket: TicketSnapshot, event: Event) -> Carried:
    return Carried(event, ticket, problem_of(pack, ticket), is_vip(pack, ticket), counts_for_batch(pack, ticket))


def _read(state: Watch, event: Event, ticket: TicketSnapshot) -> Carried:
    """What the event's ticket is; an event that waited, or of an erased ticket, is decoded anew."""
    return state.carried.get(id(ticket)) or _carried(state.book.pack, ticket, event)


def _changed(around: Iterable[Neighbourhood]) -> list[Incident]:
    return [incident for each in around for incident in each.incidents if incident.changed]

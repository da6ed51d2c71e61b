"""What the events of intake, dispatch and sla mean to review."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from services.review import domain, repository
from services.review.domain import Review
from services.review.usecases import Desk
from shared.contracts.dispatch import OrderReturned, TicketClosed, TicketReopened
from shared.contracts.intake import TicketAnswered, TicketErased, TicketRegistered, TicketSupplemented, TicketWithdrawn
from shared.contracts.review import Finding
from shared.contracts.sla import EscalationRaised
from shared.database.engine import Database, Transaction
from shared.errors import NotYet
from shared.ids import new_id
from shared.messaging.events import Event
from shared.policy import assess, check, return_reason


@dataclass(slots=True)
class Reviews:
    now: datetime
    by_ticket: dict[UUID, Review]
    touched: dict[UUID, Review] = field(default_factory=dict)


class ReviewProjection:
    """The projection of review."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._handlers: dict[str, Callable[[Review, Event, datetime], None]] = {
            TicketSupplemented.TYPE: self.on_ticket_supplemented,
            TicketWithdrawn.TYPE: self.on_ticket_ended,
            TicketAnswered.TYPE: self.on_ticket_ended,
            TicketErased.TYPE: self.on_ticket_erased,
            TicketClosed.TYPE: self.on_ticket_ended,
            TicketReopened.TYPE: self.on_ticket_reopened,
            OrderReturned.TYPE: self.on_order_returned,
            EscalationRaised.TYPE: self.on_escalation_raised,
        }
        self.types = frozenset({TicketRegistered.TYPE, *self._handlers})

    async def load(self, transaction: Transaction, events: Sequence[Event]) -> Reviews:
        known = {event.subject for event in events if event.type in self._handlers}
        rows = await repository.lock_many(transaction.connection, known) if known else {}
        return Reviews(self._desk.clock.now(), rows)

    def apply(self, state: Reviews, event: Event) -> None:
        if event.type == TicketRegistered.TYPE:
            review = self.on_ticket_registered(event, state.now)
            state.by_ticket[event.subject] = review
        else:
            found = state.by_ticket.get(event.subject)
            if found is None:
                raise NotYet("the ticket is not registered here yet")
            review = found
            self._handlers[event.type](review, event, state.now)
        if review.changed or review.is_new:
            state.touched[event.subject] = review

    async def save(self, transaction: Transaction, state: Reviews) -> None:
        touched = [state.touched[ticket_id] for ticket_id in sorted(state.touched)]
        for review in touched:
            transaction.publish_pending(review)
        if touched:
            await repository.save(transaction.connection, touched, state.now)
        if erased := [review.ticket_id for review in touched if review.ticket.erased]:
            await repository.erase_opinions(transaction.connection, erased)

    async def on_new_log(self, database: Database, alive: Callable[[], None]) -> None:
        """Nobody outside reads review's topic."""

    def on_ticket_registered(self, event: Event, now: datetime) -> Review:
        data: TicketRegistered = event.data
        review = Review(ticket_id=event.subject, ticket=data.ticket, opened_at=now, is_new=True)
        if review.is_major:
            domain.ask_opinion(review, new_id(), domain.RULES, self._desk.basis("GDM-M2"), now)
        domain.decide(review, check(self._desk.pack, review.ticket, round=review.round), now)
        return review

    def on_ticket_supplemented(self, review: Review, event: Event, now: datetime) -> None:
        data: TicketSupplemented = event.data
        if review.status in domain.OVER:
            return
        domain.supplement(review, data.ticket)
        domain.decide(review, check(self._desk.pack, review.ticket, round=review.round), now)

    def on_ticket_ended(self, review: Review, event: Event, now: datetime) -> None:
        domain.end(review)

    def on_ticket_erased(self, review: Review, event: Event, now: datetime) -> None:
        domain.erase(review)

    def on_ticket_reopened(self, review: Review, event: Event, now: datetime) -> None:
        domain.resume(review)

    def on_order_returned(self, review: Review, event: Event, now: datetime) -> None:
        """A branch gave the order back: a person decides where it goes next."""
        data: OrderReturned = event.data
        if review.status in domain.OVER or data.redispatched:
            return
        reason = return_reason(self._desk.pack, data.reason_code)
        rule = reason.cites[0] if reason else "SDM-R7"
        note = f": {data.note}" if data.note else ""
        finding = Finding(
            rule=rule,
            message_zh=f"{data.branch} 退回({reason.label.zh if reason else data.reason_code}){note}",
            message_en=f"returned by {data.branch} ({reason.label.en if reason else data.reason_code}){note}",
            proposal=data.reason_code,
        )
        domain.reopen(review)
        domain.hold(review, (finding,), None, self._desk.basis(rule), now)

    def on_escalation_raised(self, review: Review, event: Event, now: datetime) -> None:
        """Up in the queue; classes found by sla (repeat, batch) count while the ticket waits here."""
        data: EscalationRaised = event.data
        if review.status in domain.OVER:
            return
        domain.raise_priority(review, data.rung)
        if data.adds and review.status is domain.ReviewStatus.waiting:
            review.ticket = assess(self._desk.pack, review.ticket, add=data.adds)
            review.changed = True

"""What the events of intake, review and sla, and the branches' commands, mean to dispatch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from pydantic import ValidationError

from services.dispatch import repository, usecases
from services.dispatch.domain import verbs
from services.dispatch.domain.order import IN_HAND, OVER, RULES, OrderStatus, WorkOrder
from services.dispatch.schemas import Progress, ReplyIn, Return, Transfer
from services.dispatch.usecases import Desk
from shared.contracts.branch import AcceptOrder, ProgressOrder, ReplyOrder, ReturnOrder, TransferOrder
from shared.contracts.intake import TicketAnswered, TicketErased, TicketWithdrawn
from shared.contracts.review import ReviewApproved, ReviewMerged
from shared.contracts.signature import SIGNATURE, is_signed_by
from shared.contracts.sla import EscalationRaised
from shared.database.engine import Database, Transaction
from shared.errors import Conflict, Forbidden, NotYet, Poison
from shared.http.fields import RequestModel
from shared.messaging.events import Event
from shared.policy import assess, limits
from shared.privacy import mask

R = TypeVar("R", bound=RequestModel)

SILENT_BRANCH = "silent_branch"


@dataclass(slots=True)
class Orders:
    now: datetime
    by_ticket: dict[UUID, WorkOrder]
    touched: dict[UUID, WorkOrder] = field(default_factory=dict)


class DispatchProjection:
    """The projection of dispatch."""

    def __init__(self, desk: Desk, reply_keys: tuple[bytes, ...] = ()) -> None:
        """With `reply_keys` (masters, see `shared.contracts.signature`) only signed commands are obeyed."""
        self._desk = desk
        self._reply_keys = reply_keys
        self._events: dict[str, Callable[[Orders, Event], None]] = {
            ReviewApproved.TYPE: self.on_review_approved,
            ReviewMerged.TYPE: self.on_ticket_ended,
            TicketWithdrawn.TYPE: self.on_ticket_ended,
            TicketAnswered.TYPE: self.on_ticket_ended,
            TicketErased.TYPE: self.on_ticket_erased,
            EscalationRaised.TYPE: self.on_escalation_raised,
        }
        self._commands: dict[str, Callable[[WorkOrder, Any, str, datetime], None]] = {
            AcceptOrder.TYPE: lambda order, _, actor, now: usecases.accept(desk, order, actor, now),
            ProgressOrder.TYPE: self.progress,
            ReplyOrder.TYPE: self.reply,
            ReturnOrder.TYPE: lambda order, data, actor, now: usecases.give_back(
                desk, order, _request(Return, data.model_dump(include={"reason_code", "note"})), actor, now
            ),
            TransferOrder.TYPE: lambda order, data, actor, now: usecases.transfer(
                desk, order, _request(Transfer, data.model_dump(include={"to_branch", "reason"})), actor, now
            ),
        }
        self.types = frozenset({*self._events, *self._commands})

    async def load(self, transaction: Transaction, events: Sequence[Event]) -> Orders:
        wanted = {event.subject for event in events if event.type in self.types}
        rows = await repository.lock_many(transaction.connection, wanted) if wanted else {}
        return Orders(self._desk.clock.now(), rows)

    def apply(self, state: Orders, event: Event) -> None:
        if event.type in self._commands:
            self._obey(state, event)
        else:
            self._events[event.type](state, event)

    async def save(self, transaction: Transaction, state: Orders) -> None:
        touched = [state.touched[ticket_id] for ticket_id in sorted(state.touched)]
        for order in touched:
            transaction.publish_pending(order)
        if touched:
            await repository.save(transaction.connection, touched, state.now)
        if erased := [order.ticket_id for order in touched if order.ticket is not None and order.ticket.erased]:
            await repository.erase_notes(transaction.connection, erased)

    async def on_new_log(self, database: Database, alive: Callable[[], None]) -> None:
        """Branches read their topics themselves and ask nobody for a replay: tell them again what is still open."""
        await repository.publish_open_orders_again(database, alive)

    def on_review_approved(self, state: Orders, event: Event) -> None:
        """Dispatch it; after a branch gave it back, dispatch it again."""
        data: ReviewApproved = event.data
        order = state.by_ticket.get(event.subject)
        if order is None:
            order = WorkOrder(ticket_id=event.subject, ticket_no=data.ticket.ticket_no, is_new=True)
        elif order.status is not OrderStatus.returned:
            return
        usecases.dispatch_approved(self._desk, order, data.ticket, data.branch, data.actor, state.now)
        state.by_ticket[event.subject] = state.touched[event.subject] = order

    def on_ticket_ended(self, state: Orders, event: Event) -> None:
        """Withdrawn, answered or merged. When the approval is still to come, the row waits for it, ended."""
        data: TicketWithdrawn | TicketAnswered | ReviewMerged = event.data
        order = state.by_ticket.get(event.subject)
        if order is None:
            order = WorkOrder(ticket_id=event.subject, ticket_no=data.ticket_no, is_new=True)
            order.status = OrderStatus.ended
            order.closed_at = state.now
        else:
            reason = data.reason if isinstance(data, TicketWithdrawn) else event.type
            verbs.end(order, reason, data.actor, state.now)
        state.by_ticket[event.subject] = state.touched[event.subject] = order

    def on_ticket_erased(self, state: Orders, event: Event) -> None:
        """A ticket that never came here has nothing to erase; what may still come of it is blank."""
        if (order := state.by_ticket.get(event.subject)) is not None:
            verbs.erase(order)
            state.touched[event.subject] = order

    def on_escalation_raised(self, state: Orders, event: Event) -> None:
        data: EscalationRaised = event.data
        order = state.by_ticket.get(event.subject)
        if order is None:
            raise NotYet("the order is not dispatched yet")
        if order.status in OVER or order.ticket is None:
            return
        if data.kind == SILENT_BRANCH and order.status in IN_HAND:
            verbs.urge(order, RULES, state.now, data.reason, data.basis)
        else:
            ticket = assess(self._desk.pack, order.ticket, add=data.adds)
            verbs.escalate(
                order,
                ticket,
                state.now,
                kind=data.kind,
                rung=data.rung,
                level=data.level,
                reason=data.reason,
                limits=limits(self._desk.pack, ticket, self._desk.calendar),
                basis=data.basis,
            )
        state.touched[event.subject] = order

    def _obey(self, state: Orders, event: Event) -> None:
        """A command from a branch: only the branch that holds the order may give it."""
        order = state.by_ticket.get(event.subject)
        data = event.data
        if event.publisher.strip("/") != f"branch/{data.branch}":
            raise Forbidden("not_your_order", f"the command's ce_source is not /branch/{data.branch}")
        if self._reply_keys:
            self._check_signature(event)
        if order is None or order.branch != data.branch:
            raise Forbidden("not_your_order", "no order of this id is with the branch that the command names")
        if order.status is OrderStatus.raised:
            raise Conflict("order_raised", "the order was raised; the province answers it")
        self._commands[event.type](order, data, f"branch:{data.branch}/{mask(data.actor)}", state.now)
        state.touched[event.subject] = order

    def _check_signature(self, event: Event) -> None:
        # As the envelope was read: of a header that is there twice the last one counts.
        headers, branch = dict(event.record.headers), event.data.branch
        if SIGNATURE not in headers:
            raise Forbidden("not_signed", f"the command has no {SIGNATURE}, and branches must sign theirs")
        if not is_signed_by(branch, self._reply_keys, headers, event.record.value or b""):
            raise Forbidden("wrong_signature", f"{SIGNATURE} is not the named branch's signature of this command")

    def progress(self, order: WorkOrder, data: ProgressOrder, actor: str, now: datetime) -> None:
        request = _request(Progress, data.model_dump(include={"note", "contacted_at", "marks"}))
        usecases.progress(self._desk, order, request, actor, now)

    def reply(self, order: WorkOrder, data: ReplyOrder, actor: str, now: datetime) -> None:
        usecases.reply(self._desk, order, _request(ReplyIn, data.reply.model_dump()), actor, now)


def _request(model: type[R], values: dict[str, Any]) -> R:
    """A command's data under the rules of the HTTP request of the same verb. Raises `Poison`, naming the fields."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        places = ", ".join("/" + "/".join(map(str, item["loc"])) for item in error.errors(include_input=False))
        raise Poison(f"the command has the wrong form: {places}") from None

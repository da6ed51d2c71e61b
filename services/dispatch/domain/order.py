"""A work order: its states, what is known of it, and the sheet that a branch gets."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel

from shared.contracts.dispatch import (
    Label,
    Links,
    OrderCustomer,
    OrderSheet,
    Reply,
    Satisfaction,
)
from shared.contracts.ticket import Limit, TicketSnapshot
from shared.contracts.topics import branch_topic
from shared.errors import Conflict
from shared.policy import Pack
from shared.subject import Outgoing, Subject

RULES = "rules"


class OrderStatus(StrEnum):
    dispatched = "dispatched"
    accepted = "accepted"
    replied = "replied"
    returned = "returned"
    raised = "raised"
    closed = "closed"
    ended = "ended"


WITH_BRANCH = frozenset({OrderStatus.dispatched, OrderStatus.accepted})
IN_HAND = WITH_BRANCH | {OrderStatus.raised}
OVER = frozenset({OrderStatus.closed, OrderStatus.ended})


@dataclass(slots=True)
class Callback:
    """One callback, still to be stored."""

    attempt: int
    outcome: Satisfaction
    note: str | None
    actor: str
    at: datetime


@dataclass(slots=True)
class WorkOrder(Subject):
    """The order of one ticket.

    `branch_version` counts its records on branches' topics, `attempts` the callbacks since the last reply, `calls` all.
    `stored` are ticket and reply as they lie in the database: each is written again only when it is another one.
    """

    ticket_no: str = ""
    ticket: TicketSnapshot | None = None
    status: OrderStatus = OrderStatus.dispatched
    round: int = 0
    branch: str | None = None
    unit: str | None = None
    complaint_city: str | None = None
    instruction: Label | None = None
    route_rules: tuple[str, ...] = ()
    reply: Reply | None = None
    stored: tuple[TicketSnapshot | None, Reply | None] = (None, None)
    rung: int = 0
    reopened: int = 0
    attempts: int = 0
    calls: int = 0
    needs_person: bool = False
    outcome: Satisfaction | None = None
    branch_version: int = 0
    dispatched_at: datetime | None = None
    closed_at: datetime | None = None
    is_new: bool = False
    changed: bool = False
    callbacks: list[Callback] = field(default_factory=list)

    def copy(self) -> "WorkOrder":
        """One that can be changed without this one; nothing of it may wait to be published."""
        return replace(self, pending=[], callbacks=list(self.callbacks))

    def record_for_branch(self, event: BaseModel, time: datetime, branch: str) -> None:
        """Record on our own topic and, as the next record of this ticket, on the branch's."""
        self.record(event, time)
        self.branch_version += 1
        self.pending.append(Outgoing(event, self.branch_version, time, branch_topic(branch)))

    @property
    def snapshot(self) -> TicketSnapshot:
        if self.ticket is None:
            raise Conflict("order_ended", "the ticket ended before it was dispatched")
        return self.ticket


@dataclass(frozen=True, slots=True)
class Paperwork:
    """What an order sheet needs besides the ticket."""

    pack: Pack
    limits: tuple[Limit, ...]
    contact_url: str
    order_url: str


def sheet(order: WorkOrder, paper: Paperwork) -> OrderSheet:
    """All that a branch needs to act on, with absolute due times."""
    ticket = order.snapshot
    category = paper.pack.category_by_code.get(ticket.category)
    return OrderSheet(
        ticket_no=ticket.ticket_no,
        kind=ticket.kind,
        category=ticket.category,
        category_label=category.path_label if category else Label(zh=ticket.category, en=ticket.category),
        content=ticket.content,
        customer=OrderCustomer(
            tier=ticket.customer.tier,
            brand=ticket.customer.brand,
            home_city=ticket.customer.home_city,
            group_rating=ticket.customer.group_rating,
        ),
        occurred_at=ticket.occurred_at,
        accepted_at=ticket.accepted_at,
        place=ticket.place,
        elements=ticket.elements,
        amount=ticket.amount,
        agent=ticket.agent,
        classes=ticket.classes,
        urgency=ticket.urgency,
        limits=paper.limits,
        links=Links(
            contact=f"{paper.contact_url}/v1/tickets/{order.ticket_no}/contact",
            order=f"{paper.order_url}/v1/orders/{order.ticket_no}",
            reply=f"{paper.order_url}/v1/orders/{order.ticket_no}/reply",
        ),
    )

"""Events of dispatch: the order's way through branch, reply, callback and closing.

`order.dispatched`, `order.urged`, `order.escalated` and `order.recalled` also go to the branch's own topic, where
`ce_sequence` counts the records of that ticket for branches.
"""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.ticket import (
    ERASABLE,
    Agent,
    Basis,
    ClassMark,
    Contract,
    Element,
    Limit,
    MaybeText,
    Place,
    Text,
    Urgency,
    Yuan,
)
from shared.contracts.topics import DISPATCH

Satisfaction = Literal["satisfied", "unsatisfied", "not_called", "not_reached"]
"""True outcomes, kept apart: not_called = no attempt was made, not_reached = attempts failed (8.3 no. 23)."""


class Label(Contract):
    zh: str
    en: str


class OrderCustomer(Contract):
    tier: str
    brand: str | None = None
    home_city: str
    group_rating: str | None = None


class Links(Contract):
    """Where to fetch the contact (an audited read) and where to answer."""

    contact: str
    order: str
    reply: str


class OrderSheet(Contract):
    """All that a branch needs to act on an order, without knowing us. Phone and identity numbers are masked."""

    ticket_no: str
    kind: str
    category: str
    category_label: Label
    content: Text
    customer: OrderCustomer
    occurred_at: datetime | None = None
    accepted_at: datetime
    place: Place | None = None
    elements: Annotated[dict[str, Element], ERASABLE] = Field(default_factory=dict)
    amount: Yuan | None = None
    agent: Agent | None = None
    classes: tuple[ClassMark, ...] = ()
    urgency: Urgency
    limits: tuple[Limit, ...] = ()
    links: Links


class OrderDispatched(Contract):
    """The order goes to a branch. `round` counts dispatches of the ticket from 1; `unit` is the branch's desk."""

    TYPE: ClassVar = "order.dispatched"
    TOPIC: ClassVar = DISPATCH

    round: int
    branch: str
    unit: str | None = None
    complaint_city: str
    instruction: Label | None = None
    order: OrderSheet
    basis: Basis
    actor: str


class OrderAccepted(Contract):
    """The branch signed for the order."""

    TYPE: ClassVar = "order.accepted"
    TOPIC: ClassVar = DISPATCH

    branch: str
    actor: str


class OrderProgressed(Contract):
    """A step was taken or the customer was told (GDM-O2, O5). `contacted_at`: when the customer was spoken to.

    `marks` name conditions that clocks of the pack start or stop on, such as `resources_failed` (GDM-M4).
    """

    TYPE: ClassVar = "order.progressed"
    TOPIC: ClassVar = DISPATCH

    branch: str
    note: Text
    contacted_at: datetime | None = None
    marks: tuple[str, ...] = ()
    actor: str


class Reply(Contract):
    """The five elements of a reply (GDM-T8). `network` is the finding where the local network had to be verified."""

    process: Text
    content: Text
    satisfaction: Satisfaction
    replier: Text
    replied_at: datetime
    network: Literal["normal", "faulty"] | None = None


class OrderReplied(Contract):
    TYPE: ClassVar = "order.replied"
    TOPIC: ClassVar = DISPATCH

    branch: str
    reply: Reply
    complaint_city: str
    basis: Basis
    actor: str


class OrderReturned(Contract):
    """The branch gave it back with a reason. Review decides where it goes next, unless a rule sent it out again at once
    (`redispatched`, such as RTE-18)."""

    TYPE: ClassVar = "order.returned"
    TOPIC: ClassVar = DISPATCH

    branch: str
    reason_code: str
    note: MaybeText = None
    redispatched: bool = False
    basis: Basis
    actor: str


class OrderTransferred(Contract):
    """The branch passed it to another branch; an `order.dispatched` of the next round follows."""

    TYPE: ClassVar = "order.transferred"
    TOPIC: ClassVar = DISPATCH

    from_branch: str
    to_branch: str
    reason: Text
    actor: str


class OrderRaised(Contract):
    """The branch cannot handle it: to the provincial company (GDM-D8), or out to another province (GDM-L10)."""

    TYPE: ClassVar = "order.raised"
    TOPIC: ClassVar = DISPATCH

    branch: str
    to: Literal["province", "other_province"]
    reason: Text
    classes: tuple[ClassMark, ...] = ()
    basis: Basis
    actor: str


class OrderUrged(Contract):
    """Somebody waits: the branch is asked to hurry (SDM-S7)."""

    TYPE: ClassVar = "order.urged"
    TOPIC: ClassVar = DISPATCH

    ticket_no: str
    branch: str
    reason: Text
    basis: Basis
    actor: str


class OrderEscalated(Contract):
    """The order was escalated (overdue, repeat, batch, …); it now stands at this urgency and these limits."""

    TYPE: ClassVar = "order.escalated"
    TOPIC: ClassVar = DISPATCH

    ticket_no: str
    branch: str
    kind: str
    rung: int
    level: Label | None = None
    reason: str
    urgency: Urgency
    classes: tuple[ClassMark, ...] = ()
    limits: tuple[Limit, ...] = ()
    basis: Basis
    actor: str


class OrderRecalled(Contract):
    """The branch need not act any more (withdrawn, answered, re-dispatched elsewhere)."""

    TYPE: ClassVar = "order.recalled"
    TOPIC: ClassVar = DISPATCH

    ticket_no: str
    branch: str
    reason: Text
    actor: str


class CallbackRecorded(Contract):
    """A callback was made or tried. The outcome is stored as given (8.2)."""

    TYPE: ClassVar = "callback.recorded"
    TOPIC: ClassVar = DISPATCH

    ticket_no: str
    attempt: int
    outcome: Satisfaction
    note: MaybeText = None
    actor: str


class TicketClosed(Contract):
    """The end. `outcome` is the true satisfaction; `reported_outcome` stays empty unless a pack turns it on (8.2)."""

    TYPE: ClassVar = "ticket.closed"
    TOPIC: ClassVar = DISPATCH

    ticket_no: str
    branch: str | None = None
    complaint_city: str | None = None
    outcome: Satisfaction
    reported_outcome: Satisfaction | None = None
    follow_up: bool = False
    notices: tuple[str, ...] = ()
    note: MaybeText = None
    basis: Basis
    actor: str


class TicketReopened(Contract):
    """The customer is not satisfied, or a supervisor orders it: the order goes out again in the next round."""

    TYPE: ClassVar = "ticket.reopened"
    TOPIC: ClassVar = DISPATCH

    ticket_no: str
    reason: Text
    round: int
    basis: Basis
    actor: str

"""The parts that several events carry: the ticket as everyone may see it, without personal data.

A phone, a name or an identity number never appears here. The customer is a keyed hash, the text is masked.
Times are UTC. Amounts are yuan.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class Erasable:
    """Marks a field that an erasure takes away (`erasure.py`): what a person wrote about the customer, or what leads to
    the customer. Codes, times and cities stay."""


ERASABLE = Erasable()

Text = Annotated[str, ERASABLE]
MaybeText = Annotated[str | None, ERASABLE]

Element = str | int | float | bool | None
"""A dispatch element as given; None means "asked for, and the customer cannot give it"."""

Yuan = Annotated[Decimal, Field(max_digits=14, decimal_places=2)]


class Contract(BaseModel):
    """Base of everything on the wire: immutable, and tolerant of fields that a newer producer adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Basis(Contract):
    """What an automatic or a human decision rests on: the pack, its version and the ids of the rules applied."""

    pack: str
    version: str
    rules: tuple[str, ...] = ()


class CustomerFacts(Contract):
    """Who complains, as far as others may know. `key` is the keyed hash of the phone."""

    key: str
    tier: str
    brand: str | None = None
    home_city: str
    group_rating: str | None = None


class ContactFacts(Contract):
    """What is known of the contact phone without naming it. `number_prefix`: its first three digits."""

    differs: bool = False
    suspended_at: datetime | None = None
    other_in_text: bool = False
    number_prefix: Text = ""


class Place(Contract):
    city: str | None = None
    district: MaybeText = None
    address: MaybeText = None
    longitude: Annotated[float | None, ERASABLE] = None
    latitude: Annotated[float | None, ERASABLE] = None


class Agent(Contract):
    """Who raised the ticket, and the sub-centre the agent id belongs to."""

    id: str
    centre: str


class ClassMark(Contract):
    """A complaint class that a rule found on the ticket (GDM-D2 … D11 and the pack's own)."""

    code: str
    rule: str


class Urgency(Contract):
    """The urgency class of GDM-T9 and its place in the queue (1 is first)."""

    code: str
    rank: int
    rule: str


class TicketRef(Contract):
    ticket_id: UUID
    ticket_no: str


class TicketSnapshot(Contract):
    """The whole ticket as of one event, so that a consumer needs to ask nobody.

    `erased`: the customer's texts were taken away, what is left says nothing of the customer.
    """

    ticket_no: str
    channel: str
    external_id: MaybeText = None
    kind: str
    category: str
    customer: CustomerFacts
    contact: ContactFacts = ContactFacts()
    content: Text
    occurred_at: datetime | None = None
    accepted_at: datetime
    submitted_at: datetime
    place: Place | None = None
    elements: Annotated[dict[str, Element], ERASABLE] = Field(default_factory=dict)
    amount: Yuan | None = None
    agent: Agent | None = None
    call_serial: MaybeText = None
    flags: tuple[str, ...] = ()
    classes: tuple[ClassMark, ...] = ()
    urgency: Urgency
    open_duplicate: TicketRef | None = None
    pack: str
    pack_version: str
    erased: bool = False


class Limit(Contract):
    """One promise with its absolute end. `kind` is the clock's kind, `rule` the rule that sets the limit."""

    kind: str
    rule: str
    due_at: datetime

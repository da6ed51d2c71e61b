"""Requests and answers of intake's API. Times need an offset; amounts are yuan; texts are bounded."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.intake.domain import TicketStatus
from shared.contracts.ticket import Element, TicketSnapshot
from shared.http.fields import (
    STORABLE,
    Address,
    Code,
    LongText,
    Moment,
    RealNumber,
    RequestModel,
    ShortText,
    WholeNumber,
    Yuan,
)

Phone = Annotated[str, StringConstraints(pattern=r"^\+?[0-9][0-9 \-]{4,18}[0-9]$")]
ElementValue = (
    Annotated[str, StringConstraints(max_length=2000, pattern=STORABLE)] | bool | WholeNumber | RealNumber | None
)
# JSON Schema leaves other names open unless told so.
CLOSED: dict[str, Any] = {"additionalProperties": False, "propertyNames": {"maxLength": 128}}
Elements = Annotated[dict[Code, ElementValue], Field(max_length=64, json_schema_extra=CLOSED)]


class CustomerIn(RequestModel):
    phone: Phone = Field(description="the number complained about (GDM-T6)")
    name: ShortText | None = None
    tier: Code = "ordinary"
    brand: Code | None = None
    home_city: ShortText | None = Field(default=None, description="branch id, city name or area code")
    group_rating: Annotated[str, StringConstraints(max_length=8, pattern=STORABLE)] | None = None


class PlaceIn(RequestModel):
    city: ShortText | None = None
    district: ShortText | None = None
    address: Address | None = None
    longitude: RealNumber | None = Field(default=None, ge=-180, le=180)
    latitude: RealNumber | None = Field(default=None, ge=-90, le=90)


class AgentIn(RequestModel):
    id: Code
    centre: ShortText


class RegisterTicket(RequestModel):
    """A complaint as the front line posts it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "channel": "service_hall",
                    "kind": "complaint",
                    "category": "network.coverage.indoor",
                    "customer": {"phone": "13800000000", "tier": "ordinary", "brand": "easyown", "home_city": "jinan"},
                    "content": "家里信号差,打电话经常断线,希望尽快处理。",
                    "place": {"city": "jinan", "district": "历下区", "address": "泉城路附近"},
                    "elements": {"location": "泉城路附近", "since": "三天前"},
                }
            ]
        },
    )

    channel: Code
    external_id: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=STORABLE)] | None = None
    kind: Code
    category: Code
    customer: CustomerIn
    contact_phone: Phone | None = None
    contact_suspended_at: Moment | None = None
    content: LongText
    occurred_at: Moment | None = None
    place: PlaceIn | None = None
    elements: Elements = Field(default_factory=dict)
    amount: Yuan | None = None
    agent: AgentIn | None = None
    call_serial: Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9\-]+$")] | None = None
    flags: list[Code] = Field(default_factory=list, max_length=32)


class SupplementTicket(RequestModel):
    """What the agent adds to a returned ticket; a field left out stays as it was."""

    content: LongText | None = Field(default=None, description="appended to the content")
    contact_phone: Phone | None = None
    contact_suspended_at: Moment | None = None
    occurred_at: Moment | None = None
    place: PlaceIn | None = None
    elements: Elements = Field(default_factory=dict)
    amount: Yuan | None = None
    call_serial: Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9\-]+$")] | None = None
    flags: list[Code] | None = Field(default=None, max_length=32)
    note: ShortText | None = None


class WithdrawTicket(RequestModel):
    reason: ShortText


class AnswerTicket(RequestModel):
    """A first-contact solution."""

    answer: LongText


class SearchTickets(RequestModel):
    """In a body, so that a phone number never stands in a URL."""

    phone: Phone


class Links(BaseModel):
    self: str
    timeline: str


class TicketAccepted(BaseModel):
    """The first answer to a registration."""

    ticket_id: UUID
    ticket_no: str
    status: TicketStatus
    version: int
    links: Links


class TicketView(BaseModel):
    """A ticket as everyone who may see it sees it: text masked, no phone, no name."""

    ticket_id: UUID
    ticket_no: str
    status: TicketStatus
    version: int
    branch: str | None
    outcome: str | None
    accepted_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    ticket: TicketSnapshot
    links: Links


class TicketPage(BaseModel):
    """Newest first. `next_cursor` is None on the last page."""

    items: list[TicketView]
    next_cursor: str | None


class TimelineEntry(BaseModel):
    at: datetime
    service: str
    type: str
    actor: str
    rules: list[str]
    details: dict[str, Any]


class Timeline(BaseModel):
    ticket_id: UUID
    ticket_no: str
    status: TicketStatus
    entries: list[TimelineEntry]


class Contact(BaseModel):
    """Personal data, for whoever handles the ticket now. Each read is written into the ticket's timeline."""

    ticket_no: str
    name: str | None
    phone: str
    contact_phone: str
    content: str
    address: str | None


class Personal(BaseModel):
    """What is sealed in `tickets.personal`."""

    phone: str
    name: str | None = None
    contact_phone: str | None = None
    content: str
    address: str | None = None
    elements: dict[str, Element] = {}

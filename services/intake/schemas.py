"""Requests and answers of intake's API. Times need an offset; amounts are yuan; texts are bounded."""

import json
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

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
from shared.http.ndjson import MEDIA_TYPE, MEDIA_TYPES
from shared.http.problems import FieldError

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


EXAMPLE: dict[str, Any] = {
    "channel": "service_hall",
    "kind": "complaint",
    "category": "network.coverage.indoor",
    "customer": {"phone": "13800000000", "tier": "ordinary", "brand": "easyown", "home_city": "jinan"},
    "content": "家里信号差,打电话经常断线,希望尽快处理。",
    "place": {"city": "jinan", "district": "历下区", "address": "泉城路附近"},
    "elements": {"location": "泉城路附近", "since": "三天前"},
}


class RegisterTicket(RequestModel):
    """A complaint as the front line posts it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [EXAMPLE]},
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


IMPORT_REQUEST = {
    "required": True,
    "description": "One complaint a line, each as `POST /v1/tickets` takes it and of at most 256 KiB; 200,000 lines",
    "content": {
        media_type: {
            "schema": {"type": "string", "maxLength": 64 * 1024 * 1024},
            "example": "\n".join(
                json.dumps(EXAMPLE | {"external_id": external_id}, ensure_ascii=False)
                for external_id in ("OLD-1", "OLD-2")
            ),
        }
        for media_type in MEDIA_TYPES
    },
}


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


class EraseCustomer(RequestModel):
    """The phone in a body, so that it never stands in a URL; or the key of an erasure to be repeated, after a backup
    from before it was restored."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "oneOf": [
                {"required": [one], "properties": {one: {"type": "string"}, other: {"type": "null"}}}
                for one, other in (("phone", "customer_key"), ("customer_key", "phone"))
            ]
        },
    )

    phone: Phone | None = None
    customer_key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    reason: ShortText = Field(description="kept in the audit trail, with numbers masked")

    @model_validator(mode="after")
    def _one_customer(self) -> Self:
        if (self.phone is None) == (self.customer_key is None):
            raise ValueError("exactly one of phone and customer_key is needed")
        return self


class Erased(BaseModel):
    """The closed tickets of the customer whose data went now; those erased before are not named again."""

    customer_key: str
    tickets: list[str]


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


class ImportedLine(BaseModel):
    """The answer to one line: the ticket, or what was wrong. Blank lines count and get none."""

    line: int
    status: int
    ticket_id: UUID | None = None
    ticket_no: str | None = None
    code: str | None = None
    detail: str | None = None
    errors: list[FieldError] = []


_LINE_SCHEMA = ImportedLine.model_json_schema(ref_template="#/components/schemas/{model}")
IMPORT_ANSWER: dict[str, Any] = {
    "description": "One such object a line, in the order of the request, while it is still being sent",
    "content": {
        MEDIA_TYPE: {
            "schema": {name: part for name, part in _LINE_SCHEMA.items() if name != "$defs"},
            "example": '{"line":1,"status":201,"ticket_id":"019b0a51-7c80-7d35-9f11-3c2a8e64b7d0",'
            '"ticket_no":"T20261122-0000012"}\n{"line":2,"status":422,"code":"unknown_value",'
            '"detail":"/category: …","errors":[{"pointer":"/category","code":"unknown_value","detail":"…"}]}\n',
        }
    },
}


class MaskedCustomer(BaseModel):
    """Enough to recognise the customer on the line, too little to call."""

    name: str | None
    phone: str
    contact_phone: str


class TicketView(BaseModel):
    """A ticket as everyone who may see it sees it: text, phone and name masked.

    `customer` is None after an erasure, while no key opens it, and to whoever only runs the system.
    """

    ticket_id: UUID
    ticket_no: str
    status: TicketStatus
    version: int
    branch: str | None
    outcome: str | None
    accepted_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    customer: MaskedCustomer | None
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

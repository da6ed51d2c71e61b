"""Requests and answers of dispatch's API."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from services.dispatch.domain.order import OrderStatus
from shared.contracts.dispatch import Label, Reply, Satisfaction
from shared.contracts.ticket import TicketSnapshot

Code = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$")]
Note = Annotated[str, StringConstraints(min_length=1, max_length=4000, strip_whitespace=True)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Progress(Request):
    note: Note
    contacted_at: AwareDatetime | None = Field(default=None, description="when the customer was spoken to")
    marks: list[Code] = Field(default_factory=list, max_length=16)


class ReplyIn(Request):
    """The five elements of a reply (GDM-T8), all required."""

    process: Note
    content: Note
    satisfaction: Satisfaction
    replier: ShortText
    replied_at: AwareDatetime
    network: Literal["normal", "faulty"] | None = Field(
        default=None, description="the finding, where the local network had to be verified (SDM-C3)"
    )


class Return(Request):
    reason_code: Code
    note: Note | None = None


class Transfer(Request):
    to_branch: Code
    reason: Note


class Raise(Request):
    to: Literal["province", "other_province"] = "province"
    reason: Note


class Urge(Request):
    reason: Note


class CallbackResult(Request):
    outcome: Satisfaction
    note: Note | None = None


class Close(Request):
    outcome: Satisfaction
    note: Note | None = None


class Reopen(Request):
    reason: Note


class OrderView(BaseModel):
    ticket_id: UUID
    ticket_no: str
    status: OrderStatus
    round: int
    branch: str | None
    unit: str | None
    complaint_city: str | None
    instruction: Label | None
    route_rules: list[str]
    rung: int
    reply: Reply | None
    reopened: int
    attempts: int
    needs_person: bool
    outcome: Satisfaction | None
    dispatched_at: datetime | None
    closed_at: datetime | None
    ticket: TicketSnapshot | None


class OrderPage(BaseModel):
    """Newest first. `next_cursor` is None on the last page."""

    items: list[OrderView]
    next_cursor: str | None


class CallbackQueue(BaseModel):
    """What waits for a callback, the most urgent first."""

    items: list[OrderView]
    waiting: int


def order_view(row: Any) -> OrderView:
    return OrderView.model_validate(
        {name: getattr(row, name) for name in OrderView.model_fields if name != "ticket"} | {"ticket": row.snapshot}
    )

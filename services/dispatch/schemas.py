"""Requests and answers of dispatch's API."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from services.dispatch.domain.order import OrderStatus, WorkOrder
from shared.contracts.dispatch import Label, Reply, Satisfaction
from shared.contracts.ticket import TicketSnapshot
from shared.http.fields import Code, Moment, Note, RequestModel, ShortText


class Progress(RequestModel):
    note: Note
    contacted_at: Moment | None = Field(default=None, description="when the customer was spoken to")
    marks: list[Code] = Field(default_factory=list, max_length=16)


class ReplyIn(RequestModel):
    """The five elements of a reply (GDM-T8), all required."""

    process: Note
    content: Note
    satisfaction: Satisfaction
    replier: ShortText
    replied_at: Moment
    network: Literal["normal", "faulty"] | None = Field(
        default=None, description="the finding, where the local network had to be verified (SDM-C3)"
    )


class Return(RequestModel):
    reason_code: Code = Field(description="a return reason of the pack", examples=["RT_SERIAL_MISMATCH"])
    note: Note | None = None


class Transfer(RequestModel):
    to_branch: Code = Field(examples=["qingdao"])
    reason: Note


class Raise(RequestModel):
    to: Literal["province", "other_province"] = "province"
    reason: Note


class Urge(RequestModel):
    reason: Note


class CallbackResult(RequestModel):
    outcome: Satisfaction
    note: Note | None = None


class Close(RequestModel):
    outcome: Satisfaction
    note: Note | None = None


class Reopen(RequestModel):
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


def order_view(order: WorkOrder) -> OrderView:
    return OrderView.model_validate(order, from_attributes=True)

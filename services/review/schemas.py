"""Requests and answers of review's API."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from services.review.domain import ApprovalStatus, ReviewStatus
from shared.contracts.review import Finding
from shared.contracts.ticket import TicketSnapshot
from shared.http.fields import Code, Count, Note, RequestModel, YesNo


class ClaimNext(RequestModel):
    count: Count = Field(default=1, ge=1, le=50)


class Approve(RequestModel):
    branch: Code | None = Field(default=None, description="only to overrule the routing rules", examples=["jinan"])
    note: Note | None = None


class Return(RequestModel):
    reason_code: Code = Field(description="a return reason of the pack", examples=["RT_ELEMENTS_INCOMPLETE"])
    missing: list[Code] = Field(default_factory=list, max_length=32)
    note: Note | None = None


class Reclassify(RequestModel):
    kind: Code | None = Field(default=None, examples=["complaint"])
    category: Code | None = Field(default=None, examples=["network.coverage.indoor"])
    add_classes: list[Code] = Field(default_factory=list, max_length=16, examples=[["major"]])
    remove_classes: list[Code] = Field(default_factory=list, max_length=16)


class Merge(RequestModel):
    into: Annotated[str, StringConstraints(min_length=10, max_length=64)] = Field(
        description="the earlier ticket's number"
    )
    note: Note | None = None


class Opinion(RequestModel):
    granted: YesNo
    opinion: Note


class ReviewView(BaseModel):
    ticket_id: UUID
    ticket_no: str
    status: ReviewStatus
    round: int
    priority: int
    urgency_rank: int
    findings: list[Finding]
    proposed_reason: str | None
    claimed_by: str | None
    claimed_until: datetime | None
    opened_at: datetime
    ticket: TicketSnapshot


class ReviewPage(BaseModel):
    """The most urgent first."""

    items: list[ReviewView]
    waiting: int


class ApprovalView(BaseModel):
    approval_id: UUID
    ticket_id: UUID
    ticket_no: str
    kind: str
    status: ApprovalStatus
    opinion: str | None
    requested_by: str
    requested_at: datetime
    decided_by: str | None
    decided_at: datetime | None


class ApprovalList(BaseModel):
    items: list[ApprovalView]


def review_view(row: Any) -> ReviewView:
    return ReviewView(
        ticket_id=row.ticket_id,
        ticket_no=row.ticket_no,
        status=row.status,
        round=row.round,
        priority=row.priority,
        urgency_rank=row.urgency_rank,
        findings=row.findings,
        proposed_reason=row.proposed_reason,
        claimed_by=row.claimed_by,
        claimed_until=row.claimed_until,
        opened_at=row.opened_at,
        ticket=row.snapshot,
    )

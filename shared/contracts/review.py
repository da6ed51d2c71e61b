"""Events of review: what the checks or the reviewers decided."""

from typing import ClassVar, Literal
from uuid import UUID

from shared.contracts.ticket import Basis, Contract, MaybeText, Text, TicketRef, TicketSnapshot
from shared.contracts.topics import REVIEW


class Finding(Contract):
    """One thing a check found, in words for a person. `proposal` is what the rule suggests (a category, a reason)."""

    rule: str
    message_zh: Text
    message_en: Text
    proposal: str | None = None


class ReviewHeld(Contract):
    """The checks could not decide alone; a person must look. `round` counts reviews of this ticket from 1."""

    TYPE: ClassVar = "review.held"
    TOPIC: ClassVar = REVIEW

    ticket_no: str
    round: int
    findings: tuple[Finding, ...]
    basis: Basis


class ReviewReclassified(Contract):
    """Category or classes were corrected before dispatch (SDM-R0b); `ticket` is the ticket afterwards."""

    TYPE: ClassVar = "review.reclassified"
    TOPIC: ClassVar = REVIEW

    ticket: TicketSnapshot
    category_before: str
    basis: Basis
    actor: str


class ReviewApproved(Contract):
    """Ready to dispatch. `branch` is set only when a person chose the branch; otherwise the rules route it."""

    TYPE: ClassVar = "review.approved"
    TOPIC: ClassVar = REVIEW

    ticket: TicketSnapshot
    round: int
    automatic: bool
    branch: str | None = None
    note: MaybeText = None
    basis: Basis
    actor: str


class ReviewReturned(Contract):
    """Sent back to the agent with a coded reason (domain 4.1) and what is missing."""

    TYPE: ClassVar = "review.returned"
    TOPIC: ClassVar = REVIEW

    ticket_no: str
    round: int
    reason_code: str
    missing: tuple[str, ...] = ()
    note: MaybeText = None
    automatic: bool
    basis: Basis
    actor: str


class ReviewMerged(Contract):
    """A duplicate of a ticket still in process; a person confirmed it (8.3 no. 33)."""

    TYPE: ClassVar = "review.merged"
    TOPIC: ClassVar = REVIEW

    ticket_no: str
    into: TicketRef
    note: MaybeText = None
    basis: Basis
    actor: str


class ApprovalRequested(Contract):
    """A supervisor's opinion on a major complaint is asked for (GDM-M2, M9)."""

    TYPE: ClassVar = "approval.requested"
    TOPIC: ClassVar = REVIEW

    ticket_no: str
    approval_id: UUID
    kind: Literal["major_opinion"]
    basis: Basis
    actor: str


class ApprovalGranted(Contract):
    """The supervisor agrees with the proposed handling; `opinion` is the written opinion (GDM-M9)."""

    TYPE: ClassVar = "approval.granted"
    TOPIC: ClassVar = REVIEW

    ticket_no: str
    approval_id: UUID
    kind: Literal["major_opinion"]
    opinion: Text
    basis: Basis
    actor: str


class ApprovalRefused(Contract):
    """The supervisor wants it handled otherwise; `opinion` says how (GDM-M9)."""

    TYPE: ClassVar = "approval.refused"
    TOPIC: ClassVar = REVIEW

    ticket_no: str
    approval_id: UUID
    kind: Literal["major_opinion"]
    opinion: Text
    basis: Basis
    actor: str

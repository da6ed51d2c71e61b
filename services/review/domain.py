"""Pure rules of review: the states of a review and what each decision does to it. No I/O, no clock."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from shared.contracts.erasure import blank
from shared.contracts.review import (
    ApprovalRequested,
    Finding,
    ReviewApproved,
    ReviewHeld,
    ReviewMerged,
    ReviewReclassified,
    ReviewReturned,
)
from shared.contracts.ticket import Basis, TicketRef, TicketSnapshot
from shared.errors import Conflict
from shared.policy import Verdict
from shared.subject import Subject

RULES = "rules"
MAJOR = "major"
OPINION = "major_opinion"


class ReviewStatus(StrEnum):
    waiting = "waiting"
    approved = "approved"
    returned = "returned"
    merged = "merged"
    ended = "ended"


class ApprovalStatus(StrEnum):
    requested = "requested"
    granted = "granted"
    refused = "refused"


OVER = frozenset({ReviewStatus.merged, ReviewStatus.ended})
WAITING = frozenset({ReviewStatus.waiting})


@dataclass(slots=True)
class OpinionRequest:
    """An opinion asked for, still to be stored."""

    approval_id: UUID
    requested_by: str
    requested_at: datetime


@dataclass(slots=True)
class Review(Subject):
    """One ticket's review. `round` counts its passes through review from 1; `priority` rises with escalations.

    `stored` is the ticket as it lies in the database: it is written again only when it is another one.
    """

    ticket: TicketSnapshot = None  # type: ignore[assignment]
    stored: TicketSnapshot | None = None
    status: ReviewStatus = ReviewStatus.waiting
    round: int = 1
    priority: int = 0
    findings: tuple[Finding, ...] = ()
    proposed_reason: str | None = None
    claimed_by: str | None = None
    opened_at: datetime = datetime.min
    is_new: bool = False
    changed: bool = False
    opinions: list[OpinionRequest] = field(default_factory=list)

    @property
    def ticket_no(self) -> str:
        return self.ticket.ticket_no

    @property
    def is_major(self) -> bool:
        return any(mark.code == MAJOR for mark in self.ticket.classes)


def decide(review: Review, verdict: Verdict, now: datetime) -> None:
    """Carry out what the pack's checks found: approve, return, or hold for a person."""
    if verdict.outcome == "approve":
        approve(review, RULES, verdict.basis, now, automatic=True)
    elif verdict.outcome == "return":
        give_back(review, RULES, verdict.basis, now, verdict.reason_code or "", missing=verdict.missing, automatic=True)
    else:
        hold(review, verdict.findings, verdict.reason_code, verdict.basis, now)


def hold(
    review: Review, findings: tuple[Finding, ...], proposed_reason: str | None, basis: Basis, now: datetime
) -> None:
    """A person must look (the checks are not sure, or a branch gave the order back)."""
    _move(review, ReviewStatus.waiting, frozenset(ReviewStatus) - OVER)
    review.findings = findings
    review.proposed_reason = proposed_reason
    review.opened_at = now
    review.record(ReviewHeld(ticket_no=review.ticket_no, round=review.round, findings=findings, basis=basis), now)


def approve(
    review: Review,
    actor: str,
    basis: Basis,
    now: datetime,
    *,
    automatic: bool = False,
    branch: str | None = None,
    note: str | None = None,
) -> None:
    _move(review, ReviewStatus.approved, WAITING)
    review.record(
        ReviewApproved(
            ticket=review.ticket,
            round=review.round,
            automatic=automatic,
            branch=branch,
            note=note,
            basis=basis,
            actor=actor,
        ),
        now,
    )


def give_back(
    review: Review,
    actor: str,
    basis: Basis,
    now: datetime,
    reason_code: str,
    *,
    missing: tuple[str, ...] = (),
    note: str | None = None,
    automatic: bool = False,
) -> None:
    """Return the ticket to the agent (退單)."""
    _move(review, ReviewStatus.returned, WAITING)
    review.record(
        ReviewReturned(
            ticket_no=review.ticket_no,
            round=review.round,
            reason_code=reason_code,
            missing=missing,
            note=note,
            automatic=automatic,
            basis=basis,
            actor=actor,
        ),
        now,
    )


def merge(review: Review, into: Review, actor: str, basis: Basis, now: datetime, note: str | None) -> None:
    """Confirm a duplicate (8.3 no. 33): same customer, and the earlier ticket still in process."""
    if into.ticket_id == review.ticket_id:
        raise Conflict("merge_into_itself", "a ticket cannot be merged into itself")
    if into.ticket.customer.key != review.ticket.customer.key:
        raise Conflict("merge_other_customer", "only tickets of the same customer can be merged")
    if into.status in OVER:
        raise Conflict("merge_target_ended", f"the earlier ticket has ended: {into.status}")
    _move(review, ReviewStatus.merged, WAITING)
    review.record(
        ReviewMerged(
            ticket_no=review.ticket_no,
            into=TicketRef(ticket_id=into.ticket_id, ticket_no=into.ticket_no),
            note=note,
            basis=basis,
            actor=actor,
        ),
        now,
    )


def reclassify(review: Review, ticket: TicketSnapshot, actor: str, basis: Basis, now: datetime) -> None:
    """Correct category or classes before dispatch (SDM-R0b)."""
    _require(review, WAITING, "reclassified")
    before = review.ticket.category
    review.ticket = ticket
    review.changed = True
    review.record(ReviewReclassified(ticket=ticket, category_before=before, basis=basis, actor=actor), now)


def supplement(review: Review, ticket: TicketSnapshot) -> None:
    """The front line added what was missing: the next round begins, with the classes found since kept."""
    _require(review, frozenset(ReviewStatus) - OVER, "supplemented")
    known = {mark.code for mark in ticket.classes}
    kept = tuple(mark for mark in review.ticket.classes if mark.code not in known)
    review.ticket = ticket.model_copy(update={"classes": ticket.classes + kept})
    review.status = ReviewStatus.waiting
    review.round += 1
    review.changed = True


def reopen(review: Review) -> None:
    """A branch gave the order back: the next round begins, for a person."""
    review.round += 1
    review.changed = True


def end(review: Review) -> None:
    """The ticket ended elsewhere; nothing is left to review."""
    if review.status not in OVER:
        review.status = ReviewStatus.ended
        review.changed = True


def resume(review: Review) -> None:
    """A closed ticket was reopened: its approval counts again, and a branch may give the order back."""
    if review.status is ReviewStatus.ended:
        review.status = ReviewStatus.approved
        review.changed = True


def erase(review: Review) -> None:
    """The customer's data was erased: what the review keeps says nothing of the customer any more."""
    review.ticket = blank(review.ticket)
    review.findings = tuple(blank(finding) for finding in review.findings)
    review.changed = True


def raise_priority(review: Review, rung: int) -> None:
    """An escalation moves the ticket up the queue; it never moves down."""
    if (priority := max(review.priority, rung)) != review.priority:
        review.priority = priority
        review.changed = True


def ask_opinion(review: Review, approval_id: UUID, actor: str, basis: Basis, now: datetime) -> None:
    """Ask a supervisor for an opinion on a major complaint (GDM-M2)."""
    _require(review, frozenset(ReviewStatus) - OVER, "reported to a supervisor")
    if not review.is_major:
        raise Conflict("not_major", "only a major complaint needs a supervisor's opinion")
    review.opinions.append(OpinionRequest(approval_id, actor, now))
    review.changed = True
    review.record(
        ApprovalRequested(ticket_no=review.ticket_no, approval_id=approval_id, kind=OPINION, basis=basis, actor=actor),
        now,
    )


def _move(review: Review, to: ReviewStatus, allowed: frozenset[ReviewStatus]) -> None:
    _require(review, allowed, str(to))
    review.status = to
    review.claimed_by = None
    review.changed = True


def _require(review: Review, allowed: frozenset[ReviewStatus], what: str) -> None:
    if review.status not in allowed:
        raise Conflict("review_state", f"a review that is {review.status} cannot be {what}")

"""What reviewers and supervisors do. Each function works inside the caller's transaction and never commits."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.review import domain, repository
from services.review.domain import ApprovalStatus, Review
from services.review.schemas import Approve, Merge, Opinion, Reclassify, Return
from shared.clock import Clock
from shared.contracts.review import ApprovalGranted, ApprovalRefused
from shared.contracts.ticket import Basis
from shared.database.engine import Transaction
from shared.errors import Conflict, Invalid, NotFound
from shared.http.auth import Principal
from shared.http.references import ticket_reference
from shared.ids import new_id
from shared.policy import Pack, assess, class_mark, return_reason
from shared.privacy import mask


@dataclass(frozen=True, slots=True)
class Desk:
    """What every use case of review works with. `claim_seconds` is real time."""

    pack: Pack
    clock: Clock
    claim_seconds: int

    def basis(self, *rules: str) -> Basis:
        return Basis(pack=self.pack.id, version=self.pack.version, rules=rules)


async def claim_next(desk: Desk, transaction: Transaction, principal: Principal, count: int) -> list[Any]:
    rows = await repository.claim_next(transaction.connection, principal.actor, desk.claim_seconds, count)
    for row in rows:
        transaction.audit("review.claimed", actor=principal.actor, subject=str(row.ticket_id))
    return rows


async def claim(desk: Desk, transaction: Transaction, principal: Principal, reference: str) -> Any:
    row = await _find(transaction, reference)
    claimed = await repository.claim(transaction.connection, row.ticket_id, principal.actor, desk.claim_seconds)
    if claimed is None:
        raise Conflict("review_not_free", "another reviewer holds it, or it does not wait for review")
    transaction.audit("review.claimed", actor=principal.actor, subject=str(row.ticket_id))
    return claimed


async def release(desk: Desk, transaction: Transaction, principal: Principal, reference: str) -> Any:
    row = await _find(transaction, reference)
    if not await repository.release(transaction.connection, row.ticket_id, principal.actor):
        raise Conflict("review_not_yours", "you do not hold this review")
    transaction.audit("review.released", actor=principal.actor, subject=str(row.ticket_id))
    return await repository.lock(transaction.connection, row.ticket_id)


async def approve(desk: Desk, transaction: Transaction, principal: Principal, reference: str, request: Approve) -> Any:
    """Ready to dispatch; `branch` overrules the routing rules."""
    if request.branch is not None and request.branch not in desk.pack.branch_by_id:
        raise Invalid("unknown_branch", f"{request.branch!r} is not a branch of the pack", pointer="/branch")
    review = await _mine(transaction, principal, reference)
    note = mask(request.note) if request.note else None
    rules = ("SDM-R0",)
    domain.approve(review, principal.actor, desk.basis(*rules), desk.clock.now(), branch=request.branch, note=note)
    return await _save(desk, transaction, review)


async def give_back(desk: Desk, transaction: Transaction, principal: Principal, reference: str, request: Return) -> Any:
    """Return to the agent with a coded reason (domain 4.1)."""
    reason = return_reason(desk.pack, request.reason_code)
    if reason is None:
        raise Invalid("unknown_reason", "not a return reason of the pack", pointer="/reason_code")
    review = await _mine(transaction, principal, reference)
    domain.give_back(
        review,
        principal.actor,
        desk.basis(*reason.cites),
        desk.clock.now(),
        reason.code,
        missing=tuple(mask(code) for code in request.missing),
        note=mask(request.note) if request.note else None,
    )
    return await _save(desk, transaction, review)


async def reclassify(
    desk: Desk, transaction: Transaction, principal: Principal, reference: str, request: Reclassify
) -> Any:
    """Correct category and classes (SDM-R0b); a complaint that becomes major asks for an opinion at once (GDM-M2)."""
    if request.category is not None and request.category not in desk.pack.category_by_code:
        raise Invalid("unknown_value", "not a category of the pack", pointer="/category")
    if request.kind is not None and request.kind not in desk.pack.kind_by_id:
        raise Invalid("unknown_value", "not a kind of the pack", pointer="/kind")
    marks = []
    for code in request.add_classes:
        if code not in desk.pack.class_by_code:
            raise Invalid("unknown_value", f"{code!r} is not a class of the pack", pointer="/add_classes")
        marks.append(class_mark(desk.pack, code))
    connection = transaction.connection
    review = await _mine(transaction, principal, reference)
    was_major = review.is_major
    kept = tuple(mark for mark in review.ticket.classes if mark.code not in request.remove_classes)
    draft = review.ticket.model_copy(
        update={
            "category": request.category or review.ticket.category,
            "kind": request.kind or review.ticket.kind,
            "classes": kept,
        }
    )
    ticket = assess(desk.pack, draft, add=marks)
    now = desk.clock.now()
    domain.reclassify(review, ticket, principal.actor, desk.basis("SDM-R0b"), now)
    if review.is_major and not was_major and not await repository.open_approval(connection, review.ticket_id):
        domain.ask_opinion(review, new_id(), principal.actor, desk.basis("GDM-M2"), now)
    return await _save(desk, transaction, review)


async def merge(desk: Desk, transaction: Transaction, principal: Principal, reference: str, request: Merge) -> Any:
    """Confirm a duplicate of a ticket still in process."""
    own = await _find(transaction, reference)
    try:
        earlier = await _find(transaction, request.into)
    except NotFound:
        raise Invalid("merge_target_unknown", "no ticket of this number", pointer="/into") from None
    # Both at once, in id order: two tickets merged into each other would both be lost.
    locked = await repository.lock_many(transaction.connection, {own.ticket_id, earlier.ticket_id})
    review = locked[own.ticket_id]
    await _must_be_free(transaction, principal, review)
    domain.merge(
        review,
        locked[earlier.ticket_id],
        principal.actor,
        desk.basis("SDM-S1"),
        desk.clock.now(),
        mask(request.note) if request.note else None,
    )
    return await _save(desk, transaction, review)


async def ask_opinion(desk: Desk, transaction: Transaction, principal: Principal, reference: str) -> Any:
    """Report a major complaint to the supervisor (GDM-M1)."""
    review = await _locked(transaction, reference)
    if await repository.open_approval(transaction.connection, review.ticket_id):
        raise Conflict("opinion_pending", "an opinion on this ticket is being waited for")
    domain.ask_opinion(review, new_id(), principal.actor, desk.basis("GDM-M2"), desk.clock.now())
    return await _save(desk, transaction, review)


async def decide_opinion(
    desk: Desk, transaction: Transaction, principal: Principal, approval_id: UUID, request: Opinion
) -> Any:
    """The supervisor's written opinion (GDM-M2, M9)."""
    found = await repository.find_approval(transaction.connection, approval_id)
    if found is None:
        raise NotFound("approval_not_found", "no approval of this id")
    review = await _locked(transaction, str(found.ticket_id))
    now = desk.clock.now()
    status = ApprovalStatus.granted if request.granted else ApprovalStatus.refused
    opinion = mask(request.opinion)
    if not await repository.decide_approval(transaction.connection, approval_id, status, opinion, principal.actor, now):
        raise Conflict("approval_decided", "this approval was decided before")
    event = ApprovalGranted if request.granted else ApprovalRefused
    review.record(
        event(
            ticket_no=review.ticket_no,
            approval_id=approval_id,
            kind=domain.OPINION,
            opinion=opinion,
            basis=desk.basis("GDM-M2", "GDM-M9"),
            actor=principal.actor,
        ),
        now,
    )
    await _save(desk, transaction, review)
    return await repository.find_approval(transaction.connection, approval_id)


async def _find(transaction: Transaction, reference: str) -> Any:
    row = await repository.find(transaction.connection, ticket_reference(reference))
    if row is None:
        raise NotFound("review_not_found", "no review of this ticket")
    return row


async def _locked(transaction: Transaction, reference: str) -> Review:
    row = await _find(transaction, reference)
    return repository.to_review(await repository.lock(transaction.connection, row.ticket_id))


async def _mine(transaction: Transaction, principal: Principal, reference: str) -> Review:
    """Lock the review, unless another reviewer holds it by a live claim."""
    review = await _locked(transaction, reference)
    await _must_be_free(transaction, principal, review)
    return review


async def _must_be_free(transaction: Transaction, principal: Principal, review: Review) -> None:
    if await repository.held_by_another(transaction.connection, review.ticket_id, principal.actor):
        raise Conflict("review_not_free", "another reviewer holds it")


async def _save(desk: Desk, transaction: Transaction, review: Review) -> Any:
    transaction.publish_pending(review)
    await repository.save(transaction.connection, [review], desk.clock.now())
    return await repository.lock(transaction.connection, review.ticket_id)

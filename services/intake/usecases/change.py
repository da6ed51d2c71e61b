"""What happens to a ticket after its registration: supplement, withdrawal, first-contact answer, contact reads."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from services.intake import repository
from services.intake.domain import (
    TERMINAL,
    TicketStatus,
    must_allow_answer,
    must_allow_supplement,
    must_allow_withdrawal,
    overall,
)
from services.intake.schemas import AnswerTicket, Personal, SupplementTicket, TicketAccepted, WithdrawTicket
from services.intake.usecases.desk import Desk, entry, links, may_see, opened, refuse_unknown
from services.intake.usecases.picture import contact_of, masked_elements, masked_serial, place_of
from shared.contracts.intake import TicketAnswered, TicketSupplemented, TicketWithdrawn
from shared.contracts.ticket import Basis, TicketSnapshot
from shared.database.columns import Json
from shared.database.engine import Transaction
from shared.errors import Invalid, NotFound
from shared.http.auth import Principal
from shared.http.keys import Role
from shared.ids import new_id
from shared.policy import assess, known
from shared.privacy import mask

CONTENT_LIMIT = 32_000
"""Characters of a ticket's content with all its supplements; an event must stay well below the broker's 1 MiB."""


async def supplement_ticket(
    desk: Desk, transaction: Transaction, principal: Principal, reference: UUID | str, request: SupplementTicket
) -> TicketAccepted:
    """Add what a return asked for; the ticket goes to review again. Acceptance, and so every promise, stays."""
    row = await _locked(transaction, reference, principal)
    must_allow_supplement(TicketStatus(row.status))
    now = desk.clock.business(await transaction.now())
    before = TicketSnapshot.model_validate(row.snapshot)
    refuse_unknown(
        known(
            desk.pack,
            channel=before.channel,
            kind=before.kind,
            category=before.category,
            home_city=before.customer.home_city,
            place_city=request.place.city if request.place else None,
            tier=before.customer.tier,
            brand=before.customer.brand,
            flags=request.flags or (),
            elements=request.elements,
        )
    )
    personal = opened(desk, row)
    changed = tuple(sorted(request.model_fields_set - {"note"}))
    if request.content and len(personal.content) + len(request.content) > CONTENT_LIMIT:
        raise Invalid("content_too_long", f"at most {CONTENT_LIMIT} characters in all", pointer="/content")
    personal = personal.model_copy(
        update={
            "content": f"{personal.content}\n{request.content}" if request.content else personal.content,
            "contact_phone": request.contact_phone or personal.contact_phone,
            "address": request.place.address if request.place and request.place.address else personal.address,
            "elements": personal.elements | request.elements,
        }
    )
    suspended = request.contact_suspended_at if request.contact_phone else before.contact.suspended_at
    snapshot = assess(
        desk.pack,
        before.model_copy(
            update={
                "content": mask(personal.content, personal.name),
                "contact": contact_of(personal.phone, personal.contact_phone, suspended, personal.content),
                "occurred_at": request.occurred_at or before.occurred_at,
                "submitted_at": now,
                "place": place_of(desk.pack, request.place, personal.name) or before.place,
                "elements": before.elements | masked_elements(request.elements, personal.name),
                "amount": request.amount if request.amount is not None else before.amount,
                "call_serial": masked_serial(request.call_serial) or before.call_serial,
                "flags": before.flags if request.flags is None else tuple(dict.fromkeys(request.flags)),
            }
        ),
    )
    note = mask(request.note, personal.name) if request.note else None
    event = TicketSupplemented(ticket=snapshot, changed=changed, note=note, actor=principal.actor)
    version = row.version + 1
    event_id = transaction.publish(event, subject=row.ticket_id, version=version, time=now)
    order = TicketStatus(row.order_status) if row.order_status else None
    review = TicketStatus.in_review if order else None
    status = overall(TicketStatus(row.status), review, order)
    await repository.save(
        transaction.connection,
        row.ticket_id,
        status=status,
        review_status=review,
        snapshot=Json.of(snapshot),
        personal=desk.vault.seal(row.ticket_id, personal.model_dump_json().encode()),
        version=version,
        updated_at=now,
    )
    details = {"changed": list(changed)} | ({"note": note} if note else {})
    await repository.add_timeline(
        transaction.connection,
        [entry(row.ticket_id, event_id, now, event.TYPE, principal.actor, ["SDM-R8"], details)],
    )
    return _accepted(row, status, version)


async def withdraw_ticket(
    desk: Desk, transaction: Transaction, principal: Principal, reference: UUID | str, request: WithdrawTicket
) -> TicketAccepted:
    row = await _locked(transaction, reference, principal)
    must_allow_withdrawal(TicketStatus(row.status))
    event = TicketWithdrawn(
        ticket_no=row.ticket_no, reason=mask(request.reason, _name(desk, row)), actor=principal.actor
    )
    return await _end(desk, transaction, row, event, TicketStatus.withdrawn, [], {"reason": event.reason})


async def answer_ticket(
    desk: Desk, transaction: Transaction, principal: Principal, reference: UUID | str, request: AnswerTicket
) -> TicketAccepted:
    """Solved at first contact (RTE-01)."""
    row = await _locked(transaction, reference, principal)
    must_allow_answer(TicketStatus(row.status))
    rules = ("RTE-01",)
    basis = Basis(pack=desk.pack.id, version=desk.pack.version, rules=rules)
    event = TicketAnswered(
        ticket_no=row.ticket_no, answer=mask(request.answer, _name(desk, row)), basis=basis, actor=principal.actor
    )
    return await _end(desk, transaction, row, event, TicketStatus.answered, rules, {"answer": event.answer})


async def read_contact(
    desk: Desk, transaction: Transaction, principal: Principal, reference: UUID | str
) -> tuple[str, Personal]:
    """The personal data of a ticket, for who handles it now; the read is written down first."""
    row = await _locked(transaction, reference, principal)
    if principal.role is Role.branch and TicketStatus(row.status) in TERMINAL:
        raise NotFound("ticket_not_found", "no ticket of this number")
    if row.personal is None:
        raise NotFound("contact_erased", "the personal data of this ticket was erased")
    personal = opened(desk, row)
    now = desk.clock.business(await transaction.now())
    await repository.add_timeline(
        transaction.connection, [entry(row.ticket_id, new_id(), now, "contact.read", principal.actor)]
    )
    transaction.audit("contact.read", actor=principal.actor, subject=str(row.ticket_id))
    return row.ticket_no, personal


async def note_search(transaction: Transaction, principal: Principal, customer_key: str) -> None:
    """Write down that somebody looked for a customer by the phone."""
    transaction.audit("customer.searched", actor=principal.actor, subject=customer_key)


async def _end(
    desk: Desk,
    transaction: Transaction,
    row: Any,
    event: TicketWithdrawn | TicketAnswered,
    status: TicketStatus,
    rules: Sequence[str],
    details: dict[str, Any],
) -> TicketAccepted:
    now = desk.clock.business(await transaction.now())
    version = row.version + 1
    event_id = transaction.publish(event, subject=row.ticket_id, version=version, time=now)
    await repository.save(
        transaction.connection, row.ticket_id, status=status, version=version, updated_at=now, closed_at=now
    )
    await repository.add_timeline(
        transaction.connection,
        [entry(row.ticket_id, event_id, now, event.TYPE, event.actor, rules, details)],
    )
    return _accepted(row, status, version)


async def _locked(transaction: Transaction, reference: UUID | str, principal: Principal) -> Any:
    found = await repository.find(transaction.connection, reference)
    if found is None or not may_see(principal, found):
        raise NotFound("ticket_not_found", "no ticket of this number")
    row = await repository.lock(transaction.connection, found.ticket_id)
    if not may_see(principal, row):
        # It went to another branch while we waited for the lock.
        raise NotFound("ticket_not_found", "no ticket of this number")
    return row


def _name(desk: Desk, row: Any) -> str | None:
    """The customer's name, so that it can be masked in what is written about the ticket."""
    return opened(desk, row).name if row.personal is not None else None


def _accepted(row: Any, status: TicketStatus, version: int) -> TicketAccepted:
    return TicketAccepted(
        ticket_id=row.ticket_id, ticket_no=row.ticket_no, status=status, version=version, links=links(row.ticket_no)
    )

"""The end of personal data: erasure of a customer, the time that data is kept, and another key.

An erased ticket keeps its number, codes, times and cities. Its personal data goes, the texts go from its picture and
its timeline, and `ticket.erased` makes the other services take them out of theirs.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from services.intake import repository
from services.intake.domain import TERMINAL, TicketStatus
from services.intake.schemas import EraseCustomer, Erased
from services.intake.usecases.desk import Desk, entry, opened
from shared.contracts.erasure import without_texts
from shared.contracts.intake import TicketErased
from shared.contracts.registry import MODELS
from shared.contracts.ticket import TicketSnapshot
from shared.database.engine import Transaction
from shared.errors import Conflict
from shared.http.auth import Principal
from shared.messaging import erasure
from shared.privacy import mask

NAMED = 20
RETENTION = "rules:retention"


async def erase_customer(desk: Desk, transaction: Transaction, principal: Principal, request: EraseCustomer) -> Erased:
    """Erase every ticket of this customer. A second time finds nothing left and is no error.

    Raises: `Conflict` naming the tickets that are still open: they are to be closed or withdrawn first.
    """
    connection = transaction.connection
    customer_key = request.customer_key or desk.vault.customer_key(request.phone or "")
    rows = await repository.lock_of_customer(connection, customer_key)
    open_ones = [row.ticket_no for row in rows if TicketStatus(row.status) not in TERMINAL]
    if open_ones:
        named = ", ".join(open_ones[:NAMED]) + (" …" if len(open_ones) > NAMED else "")
        raise Conflict(
            "tickets_open", f"{len(open_ones)} tickets of this customer are open; close or withdraw them first: {named}"
        )
    kept = [row for row in rows if not row.snapshot.get("erased")]
    transaction.audit(
        "customer.erased",
        actor=principal.actor,
        subject=customer_key,
        details={"reason": _masked(desk, rows, request.reason), "tickets": len(kept)},
    )
    now = desk.clock.business(await transaction.now())
    await _erase(desk, transaction, kept, "request", principal.actor, now)
    return Erased(customer_key=customer_key, tickets=[row.ticket_no for row in kept])


async def erase_expired(desk: Desk, transaction: Transaction, days: int, count: int) -> int:
    """Erase some tickets that ended more than so many days ago (business time); the number erased."""
    now = desk.clock.business(await transaction.now())
    rows = await repository.lock_expired(transaction.connection, now - timedelta(days=days), count)
    await _erase(desk, transaction, rows, "retention", RETENTION, now)
    return len(rows)


async def reseal(desk: Desk, transaction: Transaction, count: int, failed: list[UUID]) -> int:
    """Seal some tickets anew with the first key; how many were looked at. What does not open is added to `failed`."""
    vault = desk.vault
    rows = await repository.lock_sealed_with(transaction.connection, vault.older_prefixes, failed, count)
    renewed: list[dict[str, Any]] = []
    for row in rows:
        try:
            clear = vault.open(row.ticket_id, bytes(row.personal))
        except ValueError:
            failed.append(row.ticket_id)
        else:
            renewed.append({"id": row.ticket_id, "new_personal": vault.seal(row.ticket_id, clear)})
    if renewed:
        await repository.save_personal(transaction.connection, renewed)
    return len(rows)


def _masked(desk: Desk, rows: Iterable[Any], reason: str) -> str:
    """The reason without numbers, and without the customer's name where it is still known."""
    for row in rows:
        with suppress(Conflict):
            reason = mask(reason, opened(desk, row).name)
    return mask(reason)


async def _erase(
    desk: Desk,
    transaction: Transaction,
    rows: Sequence[Any],
    cause: Literal["request", "retention"],
    actor: str,
    now: datetime,
) -> None:
    if not rows:
        return
    connection = transaction.connection
    ids = [row.ticket_id for row in rows]
    told = await repository.timeline_texts(connection, ids)
    changes: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for row in rows:
        event = TicketErased(ticket_no=row.ticket_no, cause=cause, actor=actor)
        version = row.version + 1
        event_id = transaction.publish(event, subject=row.ticket_id, version=version, time=now)
        snapshot = without_texts(TicketSnapshot, row.snapshot)
        changes.append(
            {
                "id": row.ticket_id,
                "new_snapshot": snapshot,
                "new_external_id": desk.vault.reference(row.external_id) if row.external_id is not None else None,
                "new_version": version,
                "new_updated_at": now,
            }
        )
        entries.append(entry(row.ticket_id, event_id, now, event.TYPE, actor, details={"cause": cause}))
    await repository.save_erased(connection, changes)
    await repository.save_details(connection, list(_blanked(told)))
    await repository.add_timeline(connection, entries)
    await erasure.note_erased(connection, ids)


def _blanked(told: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for each in told:
        model = MODELS.get(each.type)
        details = without_texts(model, each.details) if model is not None else each.details
        if details != each.details:
            yield {"ticket": each.ticket_id, "event": each.event_id, "new_details": details}

"""What people do at sla: acknowledge an escalation, change a day of the working calendar, look at their tickets."""

from datetime import date
from typing import Any
from uuid import UUID

from services.sla.domain.clocks import acknowledge
from services.sla.domain.records import EscalationStatus
from services.sla.repository import clocks, days, facts, incidents
from services.sla.usecases.desk import Desk, lock_facts
from shared.database.connection import Connection
from shared.database.engine import Transaction
from shared.errors import Conflict, NotFound
from shared.http.auth import Principal
from shared.http.keys import Role
from shared.http.references import ticket_reference
from shared.privacy import mask


async def acknowledge_escalation(
    desk: Desk, transaction: Transaction, principal: Principal, escalation_id: UUID
) -> Any:
    """Take an escalation in hand: the ladder of its clock goes no further. A second time changes nothing.

    Raises: `Conflict` when what it was raised for has come to its end meanwhile.
    """
    connection = transaction.connection
    found = await incidents.find_escalation(connection, escalation_id)
    if found is None:
        raise NotFound("escalation_not_found", "no escalation of this id")
    now = desk.clock.business(await transaction.now())
    held = await lock_facts(connection, {found.ticket_id})
    row = await incidents.find_escalation(connection, escalation_id)
    if row is None or row.status == EscalationStatus.acknowledged:
        return row
    if row.status == EscalationStatus.settled:
        raise Conflict("escalation_settled", "what it was raised for has come to its end")
    for run in held[row.ticket_id].runs:
        if run.clock_id == row.clock_id:
            acknowledge(run, principal.actor, now)
            await clocks.save(connection, [run])
    await incidents.acknowledge(connection, row, principal.actor, now)
    transaction.audit(
        "escalation.acknowledged",
        actor=principal.actor,
        subject=str(row.ticket_id),
        details={"escalation_id": escalation_id},
    )
    return await incidents.find_escalation(connection, escalation_id)


async def set_day(
    desk: Desk, transaction: Transaction, principal: Principal, day: date, working: bool, source: str
) -> Any:
    """Say whether a day is worked. Clocks that begin from now on reckon with it; running ones keep their deadline."""
    now = await transaction.now()
    source = mask(source)
    transaction.audit(
        "calendar.day_set", actor=principal.actor, subject=str(day), details={"working": working, "source": source}
    )
    return await days.set_day(transaction.connection, day, working, source, principal.actor, now)


async def find_ticket(connection: Connection, principal: Principal, reference: str) -> Any:
    """The facts of a ticket, if the caller may see it. To a branch a ticket exists that is with it, or that it gave
    back and no other has yet."""
    row = await facts.find(connection, ticket_reference(reference))
    if row is None or (principal.role is Role.branch and row.branch != principal.scope):
        raise NotFound("ticket_not_found", "no ticket of this number")
    if principal.role is Role.front_line and principal.scope not in (None, row.snapshot.get("channel")):
        raise NotFound("ticket_not_found", "no ticket of this number")
    return row

"""One pass of the sweep, the closing of quiet incidents, and the reckoning after a calendar was published."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.sla.domain.clocks import recompute_provisional
from services.sla.domain.detection import close, quiet
from services.sla.domain.firing import Fired, fire_all
from services.sla.domain.records import Rulebook
from services.sla.repository import clocks, incidents
from services.sla.repository.facts import hold
from services.sla.usecases.desk import Desk, lock_facts, save_facts
from shared.database.engine import Transaction

INCIDENTS_AT_ONCE = 100
TICKETS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did. `now` is its business time, `more` that moments are left which were due."""

    now: datetime
    fired: list[Fired]
    more: bool


async def fire_due(desk: Desk, transaction: Transaction, limit: int, without: Iterable[UUID] = ()) -> Pass:
    """Fire the earliest moments that are due by the database's time, at most `limit` clocks in one transaction.

    Candidates are found without locks; then the facts are locked in id order, as the consumer does, leaving out those
    that it holds just now; then each clock's moment is looked at again. `without` are tickets set aside.
    """
    connection = transaction.connection
    now = desk.clock.business(await transaction.now())
    candidates = await clocks.due_candidates(connection, now, limit, without)
    if not candidates:
        return Pass(now, [], False)
    # A full batch ends at its last moment, so that later ones of its clocks do not overtake the next batch.
    full = len(candidates) >= limit
    horizon = candidates[-1][1] if full else now
    found = await lock_facts(connection, {ticket_id for ticket_id, _ in candidates}, due_by=horizon)
    book = await desk.book(connection)
    pairs = [(facts, run) for facts in found.values() for run in facts.runs]
    fired = fire_all(book, pairs, horizon, now)
    touched = [facts for facts in found.values() if any(run.changed for run in facts.runs)]
    if touched:
        await save_facts(desk, transaction, touched, now)
    return Pass(now, fired, full and bool(fired))


async def close_quiet_incidents(desk: Desk, transaction: Transaction) -> int:
    """Close the incidents whose problem brought no complaint for the quiet time. Gives how many."""
    connection = transaction.connection
    now = desk.clock.business(await transaction.now())
    book = await desk.book(connection)
    keys = await incidents.quiet_problems(connection, now, quiet(book), INCIDENTS_AT_ONCE)
    if not keys:
        return 0
    await hold(connection, keys)
    closed = []
    for key in keys:
        incident = await incidents.open_incident(connection, key)
        if incident is not None and incident.last_at + quiet(book) < now:
            close(book, incident, now)
            transaction.publish_pending(incident)
            closed.append(incident)
    if closed:
        await incidents.save(connection, closed)
    return len(closed)


async def recompute_provisional_clocks(
    desk: Desk, transaction: Transaction, book: Rulebook, after: UUID | None
) -> UUID | None:
    """Reckon the next provisional clocks again, in ticket order. Gives where to go on, None at the end."""
    connection = transaction.connection
    tickets = await clocks.provisional_after(connection, after, TICKETS_AT_ONCE)
    if not tickets:
        return None
    now = desk.clock.business(await transaction.now())
    found = await lock_facts(connection, set(tickets))
    for facts in found.values():
        recompute_provisional(book, facts, now)
    touched = [facts for facts in found.values() if any(run.changed for run in facts.runs)]
    if touched:
        await save_facts(desk, transaction, touched, now)
    return tickets[-1]

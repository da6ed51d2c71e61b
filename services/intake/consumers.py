"""What the events of review, dispatch and sla mean to intake: status, branch, urgency, and an entry in the timeline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from services.intake import repository
from services.intake.domain import ORDER_STATUS, REVIEW_STATUS, TERMINAL, TicketStatus, overall
from services.intake.usecases.desk import entry
from shared.contracts import dispatch, review, sla
from shared.contracts.ticket import Contract, TicketSnapshot
from shared.database.columns import Json
from shared.database.engine import Database, Transaction
from shared.errors import NotYet
from shared.messaging.events import Event

CONSUMED: tuple[type[Contract], ...] = (
    review.ReviewHeld,
    review.ReviewReclassified,
    review.ReviewApproved,
    review.ReviewReturned,
    review.ReviewMerged,
    review.ApprovalRequested,
    review.ApprovalGranted,
    review.ApprovalRefused,
    dispatch.OrderDispatched,
    dispatch.OrderAccepted,
    dispatch.OrderProgressed,
    dispatch.OrderReplied,
    dispatch.OrderReturned,
    dispatch.OrderTransferred,
    dispatch.OrderRaised,
    dispatch.OrderUrged,
    dispatch.OrderEscalated,
    dispatch.OrderRecalled,
    dispatch.CallbackRecorded,
    dispatch.TicketClosed,
    dispatch.TicketReopened,
    sla.ClockWarned,
    sla.ClockBreached,
    sla.EscalationRaised,
    sla.IncidentJoined,
)

# Bulky or repeated parts that the ticket itself shows; the timeline keeps what is particular to the event.
_NOT_IN_TIMELINE = {"ticket", "order", "basis", "actor", "ticket_no"}


@dataclass(slots=True)
class Picture:
    """The part of a ticket's row that events change."""

    status: TicketStatus
    review: TicketStatus | None
    order: TicketStatus | None
    branch: str | None
    outcome: str | None
    urgency_rank: int
    closed_at: datetime | None
    updated_at: datetime | None = None


@dataclass(slots=True)
class Pictures:
    tickets: dict[UUID, Picture]
    entries: list[dict[str, Any]] = field(default_factory=list)
    snapshots: dict[UUID, TicketSnapshot] = field(default_factory=dict)


class Intake:
    """The projection of intake."""

    types = frozenset(model.TYPE for model in CONSUMED)  # type: ignore[attr-defined]

    async def load(self, transaction: Transaction, events: Sequence[Event]) -> Pictures:
        wanted = {event.subject for event in events if event.type in self.types}
        rows = await repository.lock_many(transaction.connection, wanted) if wanted else {}
        return Pictures(
            {
                ticket_id: Picture(
                    status=TicketStatus(row.status),
                    review=TicketStatus(row.review_status) if row.review_status else None,
                    order=TicketStatus(row.order_status) if row.order_status else None,
                    branch=row.branch,
                    outcome=row.outcome,
                    urgency_rank=row.urgency_rank,
                    closed_at=row.closed_at,
                )
                for ticket_id, row in rows.items()
            }
        )

    def apply(self, state: Pictures, event: Event) -> None:
        picture = state.tickets.get(event.subject)
        if picture is None:
            raise NotYet("the ticket is not here yet")
        if event.type in REVIEW_STATUS:
            picture.review = REVIEW_STATUS[event.type]
        if event.type in ORDER_STATUS:
            picture.order = ORDER_STATUS[event.type]
        data = event.data
        if isinstance(data, dispatch.OrderDispatched):
            picture.branch = data.branch
        elif isinstance(data, dispatch.OrderReturned) and not data.redispatched:
            picture.branch = None
        elif isinstance(data, dispatch.TicketClosed):
            picture.outcome = data.outcome
        elif isinstance(data, dispatch.OrderEscalated):
            picture.urgency_rank = data.urgency.rank
        elif isinstance(data, review.ReviewReclassified | review.ReviewApproved):
            picture.urgency_rank = data.ticket.urgency.rank
            if isinstance(data, review.ReviewReclassified) or not data.automatic:
                state.snapshots[event.subject] = data.ticket
        picture.status = overall(picture.status, picture.review, picture.order)
        picture.updated_at = event.time
        if picture.status not in TERMINAL:
            picture.closed_at = None
        elif picture.closed_at is None:
            picture.closed_at = event.time
        state.entries.append(_timeline(event))

    async def save(self, transaction: Transaction, state: Pictures) -> None:
        changed = [
            {
                "id": ticket_id,
                "new_status": picture.status,
                "new_review_status": picture.review,
                "new_order_status": picture.order,
                "new_branch": picture.branch,
                "new_outcome": picture.outcome,
                "new_urgency_rank": picture.urgency_rank,
                "new_updated_at": picture.updated_at,
                "new_closed_at": picture.closed_at,
            }
            for ticket_id, picture in sorted(state.tickets.items())
            if picture.updated_at is not None
        ]
        if changed:
            await repository.save_pictures(transaction.connection, changed)
        if state.snapshots:
            await repository.save_snapshots(
                transaction.connection,
                [
                    {
                        "id": ticket_id,
                        "new_snapshot": Json.of(snapshot),
                        "new_category": snapshot.category,
                    }
                    for ticket_id, snapshot in sorted(state.snapshots.items())
                ],
            )
        if state.entries:
            await repository.add_timeline(transaction.connection, state.entries)

    async def on_new_log(self, database: Database, alive: Callable[[], None]) -> None:
        """Nobody outside reads intake's topic; the other services ask for a replay themselves."""


def _timeline(event: Event) -> dict[str, Any]:
    data = event.data
    basis = getattr(data, "basis", None)
    details = data.model_dump(mode="json", exclude=_NOT_IN_TIMELINE, exclude_none=True, exclude_defaults=True)
    return entry(
        event.subject,
        event.envelope.event_id,
        event.time,
        event.type,
        getattr(data, "actor", None) or f"rules:{event.publisher}",
        basis.rules if basis is not None else (),
        details,
        service=event.publisher,
    )

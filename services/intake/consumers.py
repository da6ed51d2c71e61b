"""What the events of review, dispatch and sla mean to intake: status, branch, urgency, and an entry in the timeline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from services.intake import repository
from services.intake.domain import ORDER_STATUS, REVIEW_STATUS, TERMINAL, TicketStatus, overall
from shared.contracts import dispatch, review, sla
from shared.contracts.ticket import Contract, TicketSnapshot
from shared.database.arrays import text_array
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
    entries: list[tuple[Any, ...]] = field(default_factory=list)
    snapshots: dict[UUID, TicketSnapshot] = field(default_factory=dict)


class Intake:
    """The projection of intake."""

    types = frozenset(model.TYPE for model in CONSUMED)  # type: ignore[attr-defined]

    async def load(self, transaction: Transaction, events: Sequence[Event]) -> Pictures:
        wanted = {event.subject for event in events if event.type in self.types}
        rows = await repository.lock_pictures(transaction.connection, wanted) if wanted else []
        return Pictures(
            {
                ticket_id: Picture(
                    status=TicketStatus(status),
                    review=TicketStatus(review_status) if review_status else None,
                    order=TicketStatus(order_status) if order_status else None,
                    branch=branch,
                    outcome=outcome,
                    urgency_rank=urgency_rank,
                    closed_at=closed_at,
                )
                for ticket_id, status, review_status, order_status, branch, outcome, urgency_rank, closed_at in rows
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
        connection = transaction.connection
        changed = [
            (
                ticket_id,
                picture.status,
                picture.review,
                picture.order,
                picture.branch,
                picture.outcome,
                picture.urgency_rank,
                picture.updated_at,
                picture.closed_at,
            )
            for ticket_id, picture in state.tickets.items()
            if picture.updated_at is not None
        ]
        if changed:
            await repository.save_pictures(connection, changed)
        if state.snapshots:
            snapshots = [(ticket_id, Json.of(each), each.category) for ticket_id, each in state.snapshots.items()]
            await repository.save_snapshots(connection, snapshots)
        if state.entries:
            await repository.add_entries(connection, state.entries)

    async def on_new_log(self, database: Database, alive: Callable[[], None]) -> None:
        """Nobody outside reads intake's topic; the other services ask for a replay themselves."""


def _timeline(event: Event) -> tuple[Any, ...]:
    """The event's row, in the order of `repository.add_entries`."""
    data = event.data
    basis = getattr(data, "basis", None)
    rules = dict.fromkeys(rule for rule in basis.rules if rule) if basis is not None else ()
    return (
        event.subject,
        event.envelope.event_id,
        event.time,
        event.publisher,
        event.type,
        getattr(data, "actor", None) or f"rules:{event.publisher}",
        text_array(rules),
        data.model_dump_json(exclude=_NOT_IN_TIMELINE, exclude_none=True, exclude_defaults=True),
    )

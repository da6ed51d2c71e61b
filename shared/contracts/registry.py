"""Every event type and its model. A type is known here or it is a dead letter."""

from typing import TypeAlias

from shared.contracts import branch, control, dispatch, intake, review, sla
from shared.contracts.ticket import Contract

EventModel: TypeAlias = type[Contract]

_MODELS: tuple[EventModel, ...] = (
    intake.TicketRegistered,
    intake.TicketSupplemented,
    intake.TicketWithdrawn,
    intake.TicketAnswered,
    intake.TicketErased,
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
    sla.IncidentOpened,
    sla.IncidentJoined,
    sla.IncidentClosed,
    branch.AcceptOrder,
    branch.ProgressOrder,
    branch.ReplyOrder,
    branch.ReturnOrder,
    branch.TransferOrder,
    control.ReplayRequested,
)

MODELS: dict[str, EventModel] = {model.TYPE: model for model in _MODELS}  # type: ignore[attr-defined]
COMMANDS = frozenset(
    model.TYPE
    for model in (branch.AcceptOrder, branch.ProgressOrder, branch.ReplyOrder, branch.ReturnOrder, branch.TransferOrder)
)

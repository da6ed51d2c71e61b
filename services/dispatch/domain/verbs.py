"""Pure rules of dispatch: the states of a work order and what each verb does to it. No I/O, no clock.

| verb | from | to |
|---|---|---|
| dispatch | (new), returned | dispatched |
| accept | dispatched | accepted |
| progress | dispatched, accepted, raised | same |
| reply | dispatched, accepted, raised | replied, closed, or dispatched elsewhere |
| return | dispatched, accepted | returned, or dispatched again by rule |
| transfer | dispatched, accepted | dispatched to another branch |
| raise | dispatched, accepted | raised |
| callback | replied | replied, closed, or dispatched again |
| close | replied, raised, returned | closed |
| reopen | replied, closed | dispatched |
| end | any | ended (withdrawn, answered or merged) |
| erase | any | same, without the customer's texts; it cannot be reopened |
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from services.dispatch.domain.order import (
    IN_HAND,
    RULES,
    WITH_BRANCH,
    Callback,
    OrderStatus,
    Paperwork,
    WorkOrder,
    sheet,
)
from shared.contracts.dispatch import (
    CallbackRecorded,
    Label,
    OrderAccepted,
    OrderDispatched,
    OrderEscalated,
    OrderProgressed,
    OrderRaised,
    OrderRecalled,
    OrderReplied,
    OrderReturned,
    OrderTransferred,
    OrderUrged,
    Reply,
    Satisfaction,
    TicketClosed,
    TicketReopened,
)
from shared.contracts.erasure import blank
from shared.contracts.ticket import Basis, ClassMark, Limit, TicketSnapshot
from shared.errors import Conflict, Invalid
from shared.policy import Closing, Pack, Route, return_reason

# How far a branch's clock may differ from ours.
CLOCK_TOLERANCE = timedelta(minutes=10)


def send(order: WorkOrder, to: Route, paper: Paperwork, actor: str, now: datetime) -> None:
    """Send the order out, as its next round."""
    order.status = OrderStatus.dispatched
    order.round += 1
    order.branch, order.unit, order.complaint_city = to.branch, to.unit, to.complaint_city
    order.instruction, order.route_rules = to.instruction, to.basis.rules
    if to.category is not None and to.category != order.snapshot.category:
        order.ticket = order.snapshot.model_copy(update={"category": to.category})
    order.dispatched_at = now
    order.changed = True
    event = OrderDispatched(
        round=order.round,
        branch=to.branch,
        unit=to.unit,
        complaint_city=to.complaint_city,
        instruction=to.instruction,
        order=sheet(order, paper),
        basis=to.basis,
        actor=actor,
    )
    order.record_for_branch(event, now, to.branch)


def accept(order: WorkOrder, actor: str, now: datetime) -> None:
    """The branch signs for it (簽收)."""
    branch = _require(order, frozenset({OrderStatus.dispatched}), "accepted")
    order.status = OrderStatus.accepted
    order.record(OrderAccepted(branch=branch, actor=actor), now)


def progress(
    order: WorkOrder,
    pack: Pack,
    actor: str,
    now: datetime,
    note: str,
    contacted_at: datetime | None,
    marks: Iterable[str],
) -> None:
    """A step taken, or a talk with the customer (GDM-O2, O5)."""
    given = tuple(dict.fromkeys(marks))
    for mark in given:
        if mark not in pack.mark_by_id:
            raise Invalid("unknown_mark", f"{mark[:64]!r} is not a mark of the pack", pointer="/marks")
    if contacted_at is not None and contacted_at > now:
        raise Invalid("contacted_in_future", "the talk cannot be later than now", pointer="/contacted_at")
    if contacted_at is not None and contacted_at < order.snapshot.accepted_at - CLOCK_TOLERANCE:
        raise Invalid("contacted_too_early", "the talk cannot be earlier than the complaint", pointer="/contacted_at")
    branch = _require(order, IN_HAND, "progressed")
    order.record(OrderProgressed(branch=branch, note=note, contacted_at=contacted_at, marks=given, actor=actor), now)


def reply(order: WorkOrder, given: Reply, actor: str, now: datetime, complaint_city: str | None, basis: Basis) -> None:
    """The branch's answer with its five elements (GDM-T8); one that lacks any is refused (DET-36)."""
    missing = [name for name in ("process", "content", "replier") if not getattr(given, name).strip()]
    if missing:
        raise Invalid(
            "reply_incomplete",
            f"GDM-T8 asks for five elements; empty: {', '.join(missing)}",
            pointer=f"/reply/{missing[0]}",
        )
    branch = _require(order, IN_HAND, "replied")
    order.status = OrderStatus.replied
    order.reply = given
    order.attempts = 0
    order.needs_person = False
    order.complaint_city = complaint_city or order.complaint_city
    order.record(
        OrderReplied(
            branch=branch, reply=given, complaint_city=order.complaint_city or branch, basis=basis, actor=actor
        ),
        now,
    )


def give_back(
    order: WorkOrder,
    pack: Pack,
    actor: str,
    now: datetime,
    reason_code: str,
    note: str | None,
    *,
    redispatched: bool,
) -> None:
    """The branch gives the order back with a reason that a branch may give (domain 4.1)."""
    reason = return_reason(pack, reason_code)
    if reason is None or "branch" not in reason.by:
        raise Invalid("unknown_reason", "not a reason that a branch may return with", pointer="/reason_code")
    branch = _require(order, WITH_BRANCH, "returned")
    order.status = OrderStatus.returned
    basis = Basis(pack=pack.id, version=pack.version, rules=reason.cites)
    order.record(
        OrderReturned(
            branch=branch,
            reason_code=reason.code,
            note=note,
            redispatched=redispatched,
            basis=basis,
            actor=actor,
        ),
        now,
    )


def transfer(order: WorkOrder, pack: Pack, actor: str, now: datetime, to_branch: str, reason: str) -> None:
    """The branch passes it to another branch; the caller sends it there next."""
    if to_branch not in pack.branch_by_id:
        raise Invalid("unknown_branch", f"{to_branch[:64]!r} is not a branch of the pack", pointer="/to_branch")
    branch = _require(order, WITH_BRANCH, "transferred")
    if to_branch == branch:
        raise Invalid("same_branch", "the order is with this branch already", pointer="/to_branch")
    order.record(OrderTransferred(from_branch=branch, to_branch=to_branch, reason=reason, actor=actor), now)


def raise_up(
    order: WorkOrder,
    actor: str,
    now: datetime,
    to: Literal["province", "other_province"],
    reason: str,
    ticket: TicketSnapshot,
    added: tuple[ClassMark, ...],
    basis: Basis,
) -> None:
    """The branch cannot handle it: to the province (GDM-D8), or out to another province (GDM-L10)."""
    branch = _require(order, WITH_BRANCH, "raised")
    order.status = OrderStatus.raised
    order.ticket = ticket
    order.record(OrderRaised(branch=branch, to=to, reason=reason, classes=added, basis=basis, actor=actor), now)


def urge(order: WorkOrder, actor: str, now: datetime, reason: str, basis: Basis) -> None:
    """Ask the branch to hurry (催單)."""
    branch = _require(order, IN_HAND, "urged")
    event = OrderUrged(ticket_no=order.ticket_no, branch=branch, reason=reason, basis=basis, actor=actor)
    order.record_for_branch(event, now, branch)


def escalate(
    order: WorkOrder,
    ticket: TicketSnapshot,
    now: datetime,
    *,
    kind: str,
    rung: int,
    level: Label | None,
    reason: str,
    limits: tuple[Limit, ...],
    basis: Basis,
) -> None:
    """An escalation reached the order: its class and urgency count from now on, and its branch is told."""
    order.ticket = ticket
    order.rung = max(order.rung, rung)
    order.changed = True
    if order.status in IN_HAND and order.branch is not None:
        event = OrderEscalated(
            ticket_no=order.ticket_no,
            branch=order.branch,
            kind=kind,
            rung=rung,
            level=level,
            reason=reason,
            urgency=ticket.urgency,
            classes=ticket.classes,
            limits=limits,
            basis=basis,
            actor=RULES,
        )
        order.record_for_branch(event, now, order.branch)


def callback(order: WorkOrder, outcome: Satisfaction, note: str | None, actor: str, now: datetime) -> None:
    """Store a callback as it was (8.2); what follows is the pack's, see `after`."""
    _require(order, frozenset({OrderStatus.replied}), "called back")
    order.attempts += 1
    order.calls += 1
    order.callbacks.append(Callback(order.calls, outcome, note, actor, now))
    order.record(
        CallbackRecorded(ticket_no=order.ticket_no, attempt=order.calls, outcome=outcome, note=note, actor=actor), now
    )


def close(
    order: WorkOrder,
    outcome: Satisfaction,
    closing: Closing,
    actor: str,
    now: datetime,
    note: str | None = None,
    rules: tuple[str, ...] = (),
) -> None:
    """The end, with the true outcome (8.2)."""
    _require(order, frozenset({OrderStatus.replied, OrderStatus.raised, OrderStatus.returned}), "closed")
    order.status = OrderStatus.closed
    order.outcome = outcome
    order.closed_at = now
    order.needs_person = False
    basis = closing.basis.model_copy(update={"rules": tuple(dict.fromkeys((*rules, *closing.basis.rules)))})
    order.record(
        TicketClosed(
            ticket_no=order.ticket_no,
            branch=order.branch,
            complaint_city=order.complaint_city,
            outcome=outcome,
            reported_outcome=closing.reported_outcome,
            follow_up=closing.follow_up,
            notices=closing.notices,
            note=note,
            basis=basis,
            actor=actor,
        ),
        now,
    )


def reopen(order: WorkOrder, actor: str, now: datetime, reason: str, basis: Basis) -> Route:
    """The customer is not satisfied: back to the branch that answered. Gives the route for `send`."""
    if order.snapshot.erased:
        raise Conflict("ticket_erased", "the customer's data was erased; there is nothing left to send out again")
    _require(order, frozenset({OrderStatus.replied, OrderStatus.closed}), "reopened")
    order.reopened += 1
    order.closed_at = None
    order.outcome = None
    order.record(
        TicketReopened(ticket_no=order.ticket_no, reason=reason, round=order.round + 1, basis=basis, actor=actor),
        now,
    )
    return Route(
        branch=order.branch or "",
        unit=order.unit,
        complaint_city=order.complaint_city or order.branch or "",
        category=None,
        instruction=order.instruction,
        redispatch=True,
        basis=basis,
    )


def end(order: WorkOrder, reason: str, actor: str, now: datetime) -> None:
    """The ticket ended elsewhere (withdrawn, answered, merged): the branch need not act any more."""
    if order.status is OrderStatus.ended:
        return
    if order.status is OrderStatus.closed:
        # Closed and withdrawn at once: the closing stays as it was, but nothing can reopen it.
        order.status = OrderStatus.ended
        order.changed = True
        return
    if order.status in IN_HAND and order.branch is not None:
        recall(order, reason, actor, now)
    order.status = OrderStatus.ended
    order.closed_at = now
    order.changed = True


def erase(order: WorkOrder) -> None:
    """The customer's data was erased: what the order keeps says nothing of the customer any more."""
    order.ticket = blank(order.ticket) if order.ticket is not None else None
    order.reply = blank(order.reply) if order.reply is not None else None
    order.changed = True


def recall(order: WorkOrder, reason: str, actor: str, now: datetime) -> None:
    branch = order.branch or ""
    event = OrderRecalled(ticket_no=order.ticket_no, branch=branch, reason=reason, actor=actor)
    order.record_for_branch(event, now, branch)


def _require(order: WorkOrder, allowed: Iterable[OrderStatus], what: str) -> str:
    """The branch that holds the order, if the verb is allowed now."""
    if order.status not in allowed:
        raise Conflict("order_state", f"an order that is {order.status} cannot be {what}")
    order.changed = True
    return order.branch or ""

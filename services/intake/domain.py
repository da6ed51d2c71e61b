"""Pure rules of intake: the status that follows from what the other services say, and what may be done in it."""

from collections.abc import Mapping
from enum import StrEnum

from shared.errors import Conflict


class TicketStatus(StrEnum):
    registered = "registered"
    in_review = "in_review"
    returned = "returned"
    approved = "approved"
    dispatched = "dispatched"
    accepted = "accepted"
    replied = "replied"
    callback = "callback"
    returned_by_branch = "returned_by_branch"
    raised = "raised"
    closed = "closed"
    answered = "answered"
    merged = "merged"
    withdrawn = "withdrawn"


TERMINAL = frozenset({TicketStatus.closed, TicketStatus.answered, TicketStatus.merged, TicketStatus.withdrawn})

# Decided by intake itself or by an event that ends the ticket; nothing that arrives later changes them.
FINAL_HERE = frozenset({TicketStatus.answered, TicketStatus.withdrawn, TicketStatus.merged})

ANSWERABLE = frozenset(
    {
        TicketStatus.registered,
        TicketStatus.in_review,
        TicketStatus.returned,
        TicketStatus.approved,
        TicketStatus.dispatched,
    }
)

# What each event says about the part of the picture that its publisher owns. Review and dispatch are not ordered
# towards each other, so each keeps its own column and `overall` combines the two.
REVIEW_STATUS: Mapping[str, TicketStatus] = {
    "review.held": TicketStatus.in_review,
    "review.approved": TicketStatus.approved,
    "review.returned": TicketStatus.returned,
    "review.merged": TicketStatus.merged,
}
ORDER_STATUS: Mapping[str, TicketStatus] = {
    "order.dispatched": TicketStatus.dispatched,
    "order.accepted": TicketStatus.accepted,
    "order.replied": TicketStatus.replied,
    "callback.recorded": TicketStatus.callback,
    "order.returned": TicketStatus.returned_by_branch,
    "order.raised": TicketStatus.raised,
    "ticket.reopened": TicketStatus.approved,
    "ticket.closed": TicketStatus.closed,
}


def overall(current: TicketStatus, review: TicketStatus | None, order: TicketStatus | None) -> TicketStatus:
    """The status people see, from what review and dispatch last said.

    An order that a branch gave back is in review again: `returned` to the agent or `merged` then comes from review.
    """
    if current in FINAL_HERE:
        return current
    if review is TicketStatus.merged:
        return TicketStatus.merged
    if order is None:
        return review or TicketStatus.registered
    if order is TicketStatus.returned_by_branch and review in (TicketStatus.returned, TicketStatus.in_review):
        return review
    return order


def must_allow_supplement(status: TicketStatus) -> None:
    """Only a ticket that was returned waits for more; anything else is already on its way."""
    if status is not TicketStatus.returned:
        raise Conflict("ticket_not_returned", f"only a returned ticket can be supplemented; this one is {status}")


def must_allow_withdrawal(status: TicketStatus) -> None:
    if status in TERMINAL:
        raise Conflict("ticket_ended", f"the ticket has ended: {status}")


def must_allow_answer(status: TicketStatus) -> None:
    """First-contact solution (RTE-01): as long as no branch has taken it up."""
    if status not in ANSWERABLE:
        raise Conflict("ticket_not_answerable", f"a first-contact answer is too late: the ticket is {status}")

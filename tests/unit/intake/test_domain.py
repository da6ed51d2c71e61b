"""The overall status, from what review and dispatch last said, in whatever order it arrives."""

import itertools

import pytest

from services.intake.domain import ORDER_STATUS, REVIEW_STATUS, TicketStatus, overall

T = TicketStatus


def play(events: tuple[str, ...]) -> TicketStatus:
    status, review, order = T.registered, None, None
    for event in events:
        review = REVIEW_STATUS.get(event, review)
        order = ORDER_STATUS.get(event, order)
        status = overall(status, review, order)
    return status


def interleaved(first: tuple[str, ...], second: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Every way to mix two lines that keeps the order within each."""
    length = len(first) + len(second)
    mixed = set()
    for places in itertools.combinations(range(length), len(first)):
        a, b = iter(first), iter(second)
        mixed.add(tuple(next(a) if index in places else next(b) for index in range(length)))
    return mixed


@pytest.mark.parametrize(
    ("review", "order", "expected"),
    [
        (("review.approved",), ("order.dispatched",), T.dispatched),
        (("review.held", "review.approved"), ("order.dispatched", "order.accepted"), T.accepted),
        (("review.approved",), ("order.dispatched", "order.replied", "ticket.closed"), T.closed),
        (
            ("review.approved", "review.held", "review.approved"),
            ("order.dispatched", "order.returned", "order.dispatched"),
            T.dispatched,
        ),
        (("review.approved", "review.held", "review.returned"), ("order.dispatched", "order.returned"), T.returned),
        (("review.held", "review.merged"), (), T.merged),
        (("review.returned",), (), T.returned),
        (
            ("review.approved",),
            ("order.dispatched", "ticket.closed", "ticket.reopened", "order.dispatched"),
            T.dispatched,
        ),
        (("review.approved",), ("order.dispatched", "order.raised"), T.raised),
    ],
)
def test_the_status_does_not_depend_on_how_the_two_lines_mix(
    review: tuple[str, ...], order: tuple[str, ...], expected: TicketStatus
) -> None:
    for events in interleaved(review, order):
        assert play(events) is expected, events


@pytest.mark.parametrize("ended", [T.withdrawn, T.answered, T.merged])
def test_what_intake_ended_stays_ended(ended: TicketStatus) -> None:
    assert overall(ended, T.approved, T.dispatched) is ended

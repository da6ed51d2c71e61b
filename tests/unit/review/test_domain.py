"""The states of a review and what each decision does."""

from collections.abc import Callable

import pytest

from services.review import domain
from services.review.domain import Review, ReviewStatus
from shared.contracts.ticket import Basis, ClassMark
from shared.errors import Conflict
from shared.ids import new_id
from shared.policy import check
from tests.support.snapshots import NOW, PACK, snapshot

BASIS = Basis(pack="p", version="1")
S = ReviewStatus


def review_in(status: ReviewStatus) -> Review:
    return Review(ticket_id=new_id(), ticket=snapshot(), status=status, opened_at=NOW)


DECISIONS: dict[str, Callable[[Review], None]] = {
    "approve": lambda r: domain.approve(r, "reviewer:x", BASIS, NOW),
    "return": lambda r: domain.give_back(r, "reviewer:x", BASIS, NOW, "RT_OTHER"),
    "merge": lambda r: domain.merge(r, review_in(S.approved), "reviewer:x", BASIS, NOW, None),
    "reclassify": lambda r: domain.reclassify(r, r.ticket, "reviewer:x", BASIS, NOW),
}
AFTER = {"approve": S.approved, "return": S.returned, "merge": S.merged, "reclassify": S.waiting}


@pytest.mark.parametrize("status", list(ReviewStatus))
@pytest.mark.parametrize("decision", list(DECISIONS))
def test_only_a_waiting_review_is_decided(decision: str, status: ReviewStatus) -> None:
    review = review_in(status)
    if status is S.waiting:
        DECISIONS[decision](review)
        assert (review.status, review.version) == (AFTER[decision], 1)
    else:
        with pytest.raises(Conflict):
            DECISIONS[decision](review)
        assert (review.status, review.version, review.pending) == (status, 0, [])


def test_the_checks_decide_alone_where_they_are_sure() -> None:
    complete = review_in(S.waiting)
    domain.decide(complete, check(PACK, complete.ticket, round=1), NOW)
    assert complete.status is S.approved
    deficient = Review(ticket_id=new_id(), ticket=snapshot(elements={}, content="信号不好", place=None), opened_at=NOW)
    domain.decide(deficient, check(PACK, deficient.ticket, round=1), NOW)
    assert deficient.status is S.returned
    event = deficient.pending[-1].event
    assert event.reason_code == "RT_ELEMENTS_INCOMPLETE"  # type: ignore[attr-defined]
    assert event.basis.rules  # type: ignore[attr-defined]


def test_a_ticket_is_merged_into_an_open_one_of_the_same_customer_only() -> None:
    review, other = review_in(S.waiting), review_in(S.approved)
    stranger = Review(ticket_id=new_id(), ticket=snapshot(customer={"key": "d" * 32}), status=S.approved)
    for into, code in ((review, "merge_into_itself"), (stranger, "merge_other_customer")):
        with pytest.raises(Conflict) as refusal:
            domain.merge(review, into, "reviewer:x", BASIS, NOW, None)
        assert refusal.value.code == code
    other.status = S.ended
    with pytest.raises(Conflict) as refusal:
        domain.merge(review, other, "reviewer:x", BASIS, NOW, None)
    assert refusal.value.code == "merge_target_ended"


def test_a_supplement_keeps_the_classes_found_meanwhile() -> None:
    review = review_in(S.returned)
    review.ticket = review.ticket.model_copy(update={"classes": (ClassMark(code="repeat", rule="GDM-D7"),)})
    domain.supplement(review, snapshot())
    assert [mark.code for mark in review.ticket.classes] == ["repeat"]
    assert (review.round, review.status) == (2, S.waiting)


def test_priority_only_rises() -> None:
    review = review_in(S.waiting)
    for rung, expected in ((2, 2), (1, 2), (3, 3)):
        domain.raise_priority(review, rung)
        assert review.priority == expected


def test_a_closed_ticket_that_is_reopened_can_come_back_to_review() -> None:
    review = review_in(S.approved)
    domain.end(review)
    domain.resume(review)
    domain.reopen(review)
    domain.hold(review, (), None, BASIS, NOW)
    assert (review.status, review.round) == (S.waiting, 2)

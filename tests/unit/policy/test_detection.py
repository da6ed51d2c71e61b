"""Batch, repeat and appeal at their boundaries; the batch rule against a slow but obvious reading of its definition."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import combinations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.policy import Complaint, batch_members, counts_for_batch, is_appeal, is_repeat, problem_of
from tests.unit.policy.tickets import NOW, at, pack, ticket

WINDOW = timedelta(minutes=60)


def complaints_at(minutes: Sequence[float], *, vip: bool = False, customers: int = 10_000) -> list[Complaint]:
    return [
        Complaint(UUID(int=i + 1), f"c{i % customers}", vip, NOW + timedelta(minutes=minute))
        for i, minute in enumerate(minutes)
    ]


def by_definition(complaints: Sequence[Complaint]) -> set[UUID]:
    """Every window (x - 60 min, x], with x at every complaint."""
    found: set[UUID] = set()
    for x in {complaint.at for complaint in complaints}:
        inside = [complaint for complaint in complaints if x - WINDOW < complaint.at <= x]
        ordinary = [complaint for complaint in inside if not complaint.vip]
        vips = {complaint.customer_key for complaint in inside if complaint.vip}
        if len(ordinary) >= 10 or len(vips) >= 5:
            found |= {complaint.ticket_id for complaint in inside}
    return found


complaint_lists = st.lists(st.tuples(st.integers(0, 240), st.booleans(), st.integers(0, 7)), max_size=60).map(
    lambda rows: [
        Complaint(UUID(int=i + 1), f"c{customer}", vip, NOW + timedelta(minutes=minute))
        for i, (minute, vip, customer) in enumerate(rows)
    ]
)


@given(complaint_lists, st.randoms(use_true_random=False))
def test_batch_members_are_those_of_the_definition_in_any_order(complaints: list[Complaint], random: object) -> None:
    shuffled = list(complaints)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert batch_members(pack(), shuffled) == by_definition(complaints)


def test_later_complaints_join_and_earlier_ones_stay() -> None:
    complaints = complaints_at([0, *range(10, 20), 62, 200])
    assert batch_members(pack(), complaints) == {complaint.ticket_id for complaint in complaints[:-1]}


def test_five_tickets_of_one_vip_customer_are_no_batch() -> None:
    assert not batch_members(pack(), complaints_at(range(5), vip=True, customers=4))


def test_vip_and_ordinary_are_counted_apart_and_both_belong() -> None:
    nine, four = complaints_at(range(9)), complaints_at(range(4), vip=True)
    assert not batch_members(pack(), [*nine, *four])
    tenth = Complaint(UUID(int=99), "x", False, NOW + timedelta(minutes=30))
    one_vip = Complaint(UUID(int=98), "v", True, NOW + timedelta(minutes=10))
    assert len(batch_members(pack(), [*nine, tenth, one_vip])) == 11


def test_many_complaints_are_fast_enough_to_sweep() -> None:
    complaints = complaints_at([i / 1000 for i in range(20_000)])
    assert len(batch_members(pack(), complaints)) == 20_000


@pytest.mark.parametrize(
    ("archived_at", "now", "repeat"),
    [
        ("2026-08-22T10:00:00+08:00", "2026-11-22T10:00:00+08:00", True),
        ("2026-08-22T09:59:59+08:00", "2026-11-22T10:00:00+08:00", False),
        ("2026-11-22T10:00:00+08:00", "2026-11-22T10:00:00+08:00", True),
        ("2026-11-22T10:00:01+08:00", "2026-11-22T10:00:00+08:00", False),
        ("2026-02-28T10:00:00+08:00", "2026-05-31T10:00:00+08:00", True),
        ("2026-02-27T10:00:00+08:00", "2026-05-31T10:00:00+08:00", False),
        ("2025-11-30T00:30:00+08:00", "2026-02-28T00:30:00+08:00", True),
        ("2025-10-31T23:00:00+00:00", "2026-01-31T23:00:00+00:00", True),
    ],
)
def test_repeat_counts_calendar_months_in_local_time(archived_at: str, now: str, repeat: bool) -> None:
    assert is_repeat(pack(), at(archived_at), at(now)) is repeat


def test_the_same_moment_is_no_second_complaint() -> None:
    assert not is_appeal(pack(), NOW, NOW)
    assert is_appeal(pack(), NOW, NOW + timedelta(seconds=1))


def test_the_problem_is_category_and_place_or_else_home() -> None:
    here = problem_of(pack(), ticket(category="network.coverage.indoor", place={"district": "广饶县"}))
    home = problem_of(pack(), ticket(category="network.coverage.indoor"))
    assert here is not None
    assert home is not None
    assert here.parts == {"category": "network.coverage.indoor", "city": "dongying"}
    assert home.key == "network.coverage.indoor|jinan"


def test_different_problems_have_different_keys() -> None:
    tickets = [
        ticket(category=category, place={"city": city})
        for category in ("network.coverage.indoor", "network.coverage.outdoor")
        for city in ("jinan", "青岛市")
    ]
    keys = [problem.key for each in tickets if (problem := problem_of(pack(), each))]
    assert all(one != other for one, other in combinations(keys, 2))
    assert len(keys) == 4


def test_an_inquiry_is_no_complaint_of_a_batch() -> None:
    assert counts_for_batch(pack(), ticket())
    assert not counts_for_batch(pack(), ticket(kind="inquiry"))

"""The same customer again (GDM-D7, SCM-1), on a real database."""

import itertools
from datetime import timedelta

import pytest

from tests.support.sla import (
    HOUR,
    SECOND,
    Bench,
    closed,
    fresh_bench,  # noqa: F401  (the fixture `bench`)
    local,
    registered,
)


@pytest.mark.parametrize(
    ("archived_at", "again_at", "repeated"),
    [
        ("2026-08-22T10:00:00", "2026-11-22T10:00:00", True),
        ("2026-08-22T10:00:00", "2026-11-22T10:00:01", False),
        ("2026-02-28T10:00:00", "2026-05-31T10:00:00", True),
        ("2026-02-28T10:00:00", "2026-05-31T10:00:01", False),
        ("2026-08-31T23:00:00", "2026-11-30T23:00:00", True),
    ],
)
@pytest.mark.parametrize("order", ["closing first", "repeat first"])
async def test_a_repeat_is_one_within_three_calendar_months_of_the_archiving(
    bench: Bench, archived_at: str, again_at: str, repeated: bool, order: str
) -> None:
    first = registered(local(archived_at) - 24 * HOUR, customer="same")
    again = registered(local(again_at), customer="same")
    others = [registered(local(again_at), customer="other"), registered(local(again_at), customer="same", city="zibo")]
    ending = closed(first, local(archived_at))
    await bench.one_by_one(first, *([ending, again] if order == "closing first" else [again, ending]))
    await bench.apply(*others)
    assert ("repeat" in await bench.escalations(again)) is repeated
    assert [each for other in others for each in await bench.escalations(other) if each == "repeat"] == []
    assert (await bench.clock(again, "resolution")).rule == ("GDM-L6" if repeated else "GDM-L4")
    if repeated:
        (raised,) = await bench.published("escalation.raised", again.subject)
        assert raised["earlier"]["ticket_no"] == first.data.ticket.ticket_no
        assert [mark["code"] for mark in raised["adds"]] == ["repeat"]


@pytest.mark.parametrize(
    ("after", "appeal"), [(timedelta(0), False), (SECOND, True), (4 * HOUR, True), (4 * HOUR + SECOND, False)]
)
async def test_a_second_complaint_within_four_hours_is_an_appeal(bench: Bench, after: timedelta, appeal: bool) -> None:
    start = await bench.now() - 10 * HOUR
    first = registered(start, customer="same")
    second = registered(start + after, customer="same", city="zibo", category="service.hall")
    await bench.one_by_one(first, second)
    assert await bench.escalations(first) == []
    assert await bench.escalations(second) == (["appeal"] if appeal else [])


async def test_an_appeal_is_found_when_the_first_complaint_arrives_last(bench: Bench) -> None:
    start = await bench.now() - 10 * HOUR
    first, second = registered(start, customer="same"), registered(start + HOUR, customer="same", city="zibo")
    await bench.one_by_one(second, first)
    assert await bench.escalations(first) == []
    assert await bench.escalations(second) == ["appeal"]
    (raised,) = await bench.published("escalation.raised", second.subject)
    assert raised["earlier"]["ticket_no"] == first.data.ticket.ticket_no


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
async def test_an_appeal_is_said_once_in_every_order_of_arrival(
    bench: Bench, order: tuple[int, ...], together: bool
) -> None:
    start = await bench.now() - 10 * HOUR
    tickets = [registered(start + n * HOUR, customer="same", city=("jinan", "zibo")[n % 2]) for n in range(3)]
    far = registered(start + 7 * HOUR, customer="same")
    arriving = [far, *(tickets[n] for n in order)]
    await (bench.apply(*arriving) if together else bench.one_by_one(*arriving))
    assert [await bench.escalations(each) for each in (*tickets, far)] == [[], ["appeal"], ["appeal"], []]


async def test_a_ticket_that_ended_is_no_appeal_any_more(bench: Bench) -> None:
    start = await bench.now() - 10 * HOUR
    first, second = registered(start, customer="same"), registered(start + HOUR, customer="same")
    await bench.one_by_one(second, closed(second, start + 2 * HOUR), first)
    assert await bench.escalations(second) == []


async def test_an_inquiry_is_neither_an_appeal_nor_makes_one(bench: Bench) -> None:
    start = await bench.now() - 10 * HOUR
    for kinds in (("inquiry", "complaint"), ("complaint", "inquiry")):
        pair = [registered(start + n * HOUR, customer=kinds[0], kind=kind) for n, kind in enumerate(kinds)]
        await bench.one_by_one(*pair)
        assert [await bench.escalations(each) for each in pair] == [[], []]

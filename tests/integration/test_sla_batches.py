"""Many complaints of one problem (GDM-D6, DET-09), on a real database."""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from tests.support.parts import Databases
from tests.support.sla import (
    HOUR,
    MINUTE,
    SECOND,
    WINDOW,
    Bench,
    fresh_bench,  # noqa: F401  (the fixture `bench`)
    registered,
    running_bench,
)
from tests.support.snapshots import NOW


def in_full_windows(times: dict[str, datetime]) -> set[str]:
    """Who lies in a window (x - 60 min, x] of ten complaints, by looking at every one of them."""
    found: set[str] = set()
    for end in times.values():
        inside = {who for who, at in times.items() if end - WINDOW < at <= end}
        if len(inside) >= 10:
            found |= inside
    return found


@dataclass
class Shuffled:
    """What several orders of arrival, in batches of several sizes, made of the same complaints."""

    complaints: list[tuple[str, str, timedelta]] = field(default_factory=list)
    results: list[set[str]] = field(default_factory=list)
    miscounted: list[Any] = field(default_factory=list)


@pytest_asyncio.fixture(scope="module")
async def shuffled(databases: Databases) -> Shuffled:
    spread = random.Random(7)
    done = Shuffled()
    for n in range(160):
        minute = spread.choice([spread.uniform(0, 600), spread.gauss(300, 25), spread.gauss(100, 15)])
        done.complaints.append((f"k{n}", ("jinan", "qingdao")[n % 2], minute * MINUTE))
    for seed in range(5):
        order = random.Random(seed)
        arriving = list(done.complaints)
        if seed:
            order.shuffle(arriving)
        async with running_bench(databases) as bench:
            start = await bench.now() - 24 * HOUR
            events = [registered(start + at, city=city, customer=who) for who, city, at in arriving]
            while events:
                size = order.choice([1, 3, 20, 60])
                await bench.apply(*events[:size])
                del events[:size]
            done.results.append(await bench.members())
            done.miscounted += await bench.holes()
            done.miscounted += await bench.query(
                "SELECT incident_id FROM incidents AS i WHERE first_at > last_at OR member_count <>"
                " (SELECT count(*) FROM complaint_facts AS f WHERE f.incident_id = i.incident_id)"
            )
    return done


async def test_every_window_of_ten_is_found_in_every_order_of_arrival(shuffled: Shuffled) -> None:
    for city in ("jinan", "qingdao"):
        full = in_full_windows({who: NOW + at for who, where, at in shuffled.complaints if where == city})
        assert len(full) > 40
        for members in shuffled.results:
            assert full <= members
    assert all(len(members) < len(shuffled.complaints) for members in shuffled.results)
    assert shuffled.miscounted == []


async def test_membership_does_not_depend_on_the_order_of_arrival(shuffled: Shuffled) -> None:
    assert all(members == shuffled.results[0] for members in shuffled.results)


LATE_BRIDGE = ([*range(10), 119, 174, 229, 284], 64)
LATE_FIRST = ([*range(50, 59), 112, 170], 0)


@pytest.mark.parametrize(
    "late_last",
    [False, True],
    ids=["in order", "one comes late"],
)
@pytest.mark.parametrize(("minutes", "late"), [LATE_BRIDGE, LATE_FIRST], ids=["bridge", "first"])
async def test_a_late_complaint_draws_in_all_that_it_connects(
    bench: Bench, minutes: list[int], late: int, late_last: bool
) -> None:
    """All lie within the quiet time of the one before. The late one joins them to the incident, or completes the ten;
    what then is covered must come with it, however far that reaches."""
    order = [*minutes, late] if late_last else sorted([*minutes, late])
    start = await bench.now() - 12 * HOUR
    await bench.one_by_one(*(registered(start + minute * MINUTE) for minute in order))
    assert await bench.incidents() == [("open", len(order))]


async def test_nine_open_nothing_the_tenth_opens_the_eleventh_joins_and_quiet_closes(bench: Bench) -> None:
    now = await bench.now()
    first = now - 3 * HOUR
    complaints = [registered(first + n * MINUTE) for n in range(10)]
    await bench.apply(*complaints[:9])
    assert (await bench.incidents(), await bench.published("incident.opened")) == ([], [])
    await bench.apply(complaints[9])
    assert await bench.incidents() == [("open", 10)]
    (opened,) = await bench.published("incident.opened")
    assert {member["ticket_no"] for member in opened["members"]} == {each.data.ticket.ticket_no for each in complaints}
    for each in complaints:
        assert "batch" in [
            mark["code"] for mark in (await bench.published("escalation.raised", each.subject))[0]["adds"]
        ]
        assert (await bench.clock(each, "resolution")).rule == "GDM-L7"
    eleventh = registered(first + 60 * MINUTE)
    await bench.apply(eleventh)
    assert await bench.incidents() == [("open", 11)]
    assert len(await bench.published("incident.joined", eleventh.subject)) == 1

    # Another problem, whose last complaint is not yet an hour old, stays open.
    await bench.apply(*(registered(now - 59 * MINUTE, city="qingdao") for _ in range(10)))
    assert await bench.close_quiet() == 1
    assert await bench.close_quiet() == 0
    assert await bench.incidents() == [("closed", 11), ("open", 10)]
    (ending,) = await bench.published("incident.closed")
    assert ending["member_count"] == 11
    assert datetime.fromisoformat(ending["last_at"]) == first + 60 * MINUTE
    assert await bench.holes() == []


async def test_a_window_is_open_at_its_beginning(bench: Bench) -> None:
    start = await bench.now() - 5 * HOUR
    await bench.one_by_one(registered(start), *(registered(start + WINDOW) for _ in range(9)))
    assert await bench.incidents() == []
    await bench.one_by_one(
        registered(start, city="qingdao"), *(registered(start + WINDOW - SECOND, city="qingdao") for _ in range(9))
    )
    assert await bench.incidents() == [("open", 10)]


async def test_five_vip_customers_are_a_batch_and_four_are_not(bench: Bench) -> None:
    start = await bench.now() - 2 * HOUR
    vips = [registered(start + n * MINUTE, tier="vip", customer=f"v{n}") for n in range(4)]
    again = [registered(start + n * MINUTE, tier="vip", customer="v0") for n in range(4)]
    await bench.one_by_one(*vips, *again)
    assert await bench.incidents() == []
    await bench.apply(registered(start + 5 * MINUTE, tier="vip", customer="v4"))
    assert await bench.incidents() == [("open", 9)]


async def test_a_new_batch_closes_the_incident_that_nobody_closed_yet(bench: Bench) -> None:
    """While events wait to be read no quiet incident is closed; the next batch of the problem may be among them."""
    start = await bench.now() - 12 * HOUR
    await bench.one_by_one(*(registered(start + n * MINUTE) for n in range(10)))
    await bench.one_by_one(*(registered(start + 8 * HOUR + n * MINUTE) for n in range(10)))
    assert await bench.incidents() == [("closed", 10), ("open", 10)]
    await bench.apply(*(registered(start + 4 * HOUR + n * MINUTE) for n in range(10)))
    assert await bench.incidents() == [("closed", 10), ("closed", 10), ("open", 10)]
    assert await bench.holes() == []


async def test_what_comes_just_within_the_quiet_time_is_drawn_in(bench: Bench) -> None:
    """Each an hour after the one before, over two days; the one that connects them to the incident comes last."""
    start = await bench.now() - 60 * HOUR
    trickle = [registered(start + n * HOUR) for n in range(2, 50)]
    alone = registered(start + 50 * HOUR + SECOND)
    await bench.one_by_one(*trickle[::-1], alone, *(registered(start - n * MINUTE) for n in range(10)))
    assert await bench.incidents() == [("open", 10)]
    await bench.apply(registered(start + HOUR))
    assert await bench.incidents() == [("open", 59)]
    assert alone.data.ticket.customer.key not in await bench.members()

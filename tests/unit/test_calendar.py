"""The working calendar: properties that hold for any start, known dates, and a cross-check with another library."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import holidays
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.calendar import LUNAR, WorkingCalendar, is_statutory_holiday, package_days, tomb_sweeping_day

SHANGHAI = ZoneInfo("Asia/Shanghai")
HOURS = ((time(8, 30), time(12)), (time(13, 30), time(17, 30)))
PUBLISHED = date(2026, 12, 31)
HALF_DAY = timedelta(hours=3, minutes=45)


@cache
def calendar() -> WorkingCalendar:
    return WorkingCalendar({day: worked for day, worked, _ in package_days(2024, 2027)}, HOURS, SHANGHAI, PUBLISHED)


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=SHANGHAI)


starts = st.datetimes(datetime(2024, 1, 1), datetime(2028, 6, 1), timezones=st.just(UTC))


def test_half_a_day_is_half_of_the_configured_working_day() -> None:
    assert calendar().day_length == 2 * HALF_DAY


@pytest.mark.parametrize(
    ("start", "due"),
    [
        ("2026-11-23T08:30:00", "2026-11-23T13:45:00"),
        ("2026-11-23T10:00:00", "2026-11-23T15:15:00"),
        ("2026-11-23T13:45:00", "2026-11-23T17:30:00"),
        ("2026-11-23T13:45:01", "2026-11-24T08:30:01"),
        ("2026-11-20T16:30:00", "2026-11-23T11:15:00"),
        ("2026-11-21T12:00:00", "2026-11-23T13:45:00"),
        ("2026-09-30T17:30:00", "2026-10-08T13:45:00"),
    ],
)
def test_half_a_working_day_skips_lunch_nights_weekends_and_holidays(start: str, due: str) -> None:
    assert calendar().add_half_working_days(local(start), 1) == local(due)


@pytest.mark.parametrize(
    ("start", "count", "due"),
    [
        ("2026-11-20T09:00:00", 1, "2026-11-23T17:30:00"),
        ("2026-11-23T00:00:00", 1, "2026-11-24T17:30:00"),
        ("2026-09-30T09:00:00", 1, "2026-10-08T17:30:00"),
        ("2026-10-09T09:00:00", 1, "2026-10-10T17:30:00"),
        ("2026-11-20T09:00:00", 7, "2026-12-01T17:30:00"),
    ],
)
def test_a_period_in_working_days_starts_the_day_after_and_ends_at_close_of_business(
    start: str, count: int, due: str
) -> None:
    assert calendar().add_working_days(local(start), count) == local(due)


def test_next_time_of_day_is_strictly_later() -> None:
    five = time(17)
    assert calendar().next_time_of_day(local("2026-11-20T16:59:59"), five) == local("2026-11-20T17:00:00")
    assert calendar().next_time_of_day(local("2026-11-20T17:00:00"), five) == local("2026-11-21T17:00:00")


def test_end_of_working_day_is_the_next_close_of_business() -> None:
    assert calendar().end_of_working_day(local("2026-11-20T17:29:59")) == local("2026-11-20T17:30:00")
    assert calendar().end_of_working_day(local("2026-11-20T17:30:00")) == local("2026-11-23T17:30:00")


@given(starts, st.integers(1, 12))
def test_due_is_later_and_counted_time_is_exact(start: datetime, halves: int) -> None:
    due = calendar().add_half_working_days(start, halves)
    assert due > start
    assert calendar().working_time_between(start, due) == HALF_DAY * halves


@given(starts, st.timedeltas(timedelta(0), timedelta(days=20)), st.integers(1, 6))
def test_a_later_start_is_never_due_earlier(start: datetime, later: timedelta, count: int) -> None:
    other = start + later
    moves: list[Callable[[datetime], datetime]] = [
        lambda at: calendar().add_half_working_days(at, count),
        lambda at: calendar().add_working_days(at, count),
        calendar().end_of_working_day,
        lambda at: calendar().next_time_of_day(at, time(17)),
    ]
    for due in moves:
        assert start < due(start) <= due(other)


@given(starts, st.timedeltas(timedelta(0), timedelta(days=9)), st.timedeltas(timedelta(0), timedelta(days=9)))
def test_working_time_adds_up(start: datetime, first: timedelta, second: timedelta) -> None:
    middle, end = start + first, start + first + second
    between = calendar().working_time_between
    assert between(start, middle) + between(middle, end) == between(start, end)
    assert between(start, end) <= end - start


@given(starts)
def test_the_end_of_a_half_day_is_working_time_or_its_very_end(start: datetime) -> None:
    due = calendar().add_half_working_days(start, 1)
    assert calendar().is_working_time(due - timedelta(microseconds=1))


def test_the_package_has_no_2027_and_what_rests_on_it_is_provisional() -> None:
    assert package_days(2027, 2028) == []
    assert len(package_days(2026, 2027)) == 365
    assert calendar().rests_on_provisional(local("2026-12-31T16:00:00"), local("2027-01-04T09:00:00"))
    assert not calendar().rests_on_provisional(local("2026-12-30T16:00:00"), local("2026-12-31T09:00:00"))


def test_an_edited_day_is_not_provisional() -> None:
    edited = WorkingCalendar({date(2027, 1, 4): False}, HOURS, SHANGHAI, PUBLISHED)
    assert not edited.is_working_day(date(2027, 1, 4))
    assert not edited.is_provisional(date(2027, 1, 4))


def test_unpublished_years_know_weekends_and_statutory_days() -> None:
    off = [date(2027, 1, 1), date(2027, 2, 5), date(2027, 5, 1), date(2027, 10, 1), date(2027, 1, 2), date(2033, 10, 3)]
    assert not any(calendar().is_working_day(day) for day in off)
    assert calendar().is_working_day(date(2027, 1, 4))


def test_a_calendar_without_any_working_day_says_so() -> None:
    empty = WorkingCalendar(
        {date(2026, 1, 1) + timedelta(days=n): False for n in range(900)}, HOURS, SHANGHAI, PUBLISHED
    )
    with pytest.raises(ValueError, match="no working day"):
        empty.add_working_days(local("2026-01-01T09:00:00"), 1)


def test_days_off_agree_with_another_library() -> None:
    """`holidays` lists days off and substitutes, but not which weekends are worked instead."""
    other = holidays.country_holidays("CN", years=[2024, 2025, 2026])
    for day in other:
        if day.weekday() < 5:
            assert not calendar().is_working_day(day), day
    for day, worked, _ in package_days(2024, 2026):
        if not worked and day.weekday() < 5:
            assert day in other, day


def test_computed_statutory_days_agree_with_another_library() -> None:
    """The names that are holidays by law themselves, not substitutes or observed days."""
    other = holidays.country_holidays("CN", years=range(2027, 2031))
    by_law = {day for day, name in other.items() if "observed" not in name and "substituted" not in name}
    computed = {date(2027, 1, 1) + timedelta(days=n) for n in range(4 * 365 + 1)}
    assert {day for day in computed if is_statutory_holiday(day)} == by_law
    assert len(LUNAR) == 24


@pytest.mark.parametrize(("year", "day"), [(2024, 4), (2025, 4), (2026, 5), (2027, 5), (2028, 4)])
def test_tomb_sweeping_day(year: int, day: int) -> None:
    assert tomb_sweeping_day(year) == date(year, 4, day)

"""The working calendar: which days are worked, and arithmetic in working time.

Pure: the days come in as data (a table that the sla service owns and an administrator can edit). The State
Council publishes the days off of a year in the autumn before. For a day that is not in the data, weekends and the
statutory holidays are computed; after `published_through`, what rests on them is provisional.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo

import chinese_calendar

SATURDAY = 5
CALENDAR_YEARS = (2004, 2035)
"""Years asked of the package; those it lacks are left out."""
SEARCH_LIMIT = timedelta(days=400)
ZERO = timedelta(0)

FIXED = frozenset({(1, 1), (5, 1), (5, 2), (10, 1), (10, 2), (10, 3)})
"""New Year, Labour Day and National Day, as (month, day), under the State Council's rule in force since 2025."""

LUNAR = frozenset(
    date.fromisoformat(text)
    for text in (
        # eve and first three days of the lunar new year, Dragon Boat, Mid-Autumn
        "2027-02-05 2027-02-06 2027-02-07 2027-02-08 2027-06-09 2027-09-15 "
        "2028-01-25 2028-01-26 2028-01-27 2028-01-28 2028-05-28 2028-10-03 "
        "2029-02-12 2029-02-13 2029-02-14 2029-02-15 2029-06-16 2029-09-22 "
        "2030-02-02 2030-02-03 2030-02-04 2030-02-05 2030-06-05 2030-09-12"
    ).split()
)
"""Moving holidays of the next years; later ones are unknown here and count as ordinary days until published."""


def tomb_sweeping_day(year: int) -> date:
    """Qingming, by the rule of thumb that is exact for 2000-2099."""
    short = year % 100
    return date(year, 4, int(short * 0.2422 + 4.81) - short // 4)


def is_statutory_holiday(day: date) -> bool:
    """A public holiday by law, as far as it can be computed before the plan of the year is out."""
    return (day.month, day.day) in FIXED or day in LUNAR or day == tomb_sweeping_day(day.year)


def package_days(year_from: int, year_to: int) -> list[tuple[date, bool, str]]:
    """(day, worked, source) for every day that `chinese_calendar` has; both years included, years it lacks left out."""
    days: list[tuple[date, bool, str]] = []
    for year in range(year_from, year_to + 1):
        try:
            chinese_calendar.is_workday(date(year, 1, 1))
        except NotImplementedError:
            continue
        day = date(year, 1, 1)
        while day.year == year:
            days.append((day, bool(chinese_calendar.is_workday(day)), "chinesecalendar"))
            day += timedelta(days=1)
    return days


class WorkingCalendar:
    """Working days and hours of one organisation. Takes and gives timezone-aware times; the times it gives are UTC."""

    def __init__(
        self,
        days: Mapping[date, bool],
        working_hours: tuple[tuple[time, time], ...],
        tz: tzinfo,
        published_through: date,
    ) -> None:
        if not working_hours:
            raise ValueError("a working day needs at least one span of hours")
        self.days = days
        self.working_hours = working_hours
        self.tz = tz
        self.published_through = published_through
        today = date(2000, 1, 3)
        spans = ((datetime.combine(today, start), datetime.combine(today, end)) for start, end in working_hours)
        self.day_length = sum((end - start for start, end in spans), ZERO)
        self._worked: dict[date, tuple[tuple[datetime, datetime], ...]] = {}

    def is_working_day(self, day: date) -> bool:
        worked = self.days.get(day)
        if worked is not None:
            return worked
        return day.weekday() < SATURDAY and not is_statutory_holiday(day)

    def is_provisional(self, day: date) -> bool:
        """Whether the day's state is computed, because no plan is published that covers it."""
        return day > self.published_through and day not in self.days

    def local_date(self, at: datetime) -> date:
        return at.astimezone(self.tz).date()

    def is_working_time(self, at: datetime) -> bool:
        """Whether work is done at that moment; the end of a span is not work any more."""
        return any(start <= at < end for start, end in self._spans(self.local_date(at)))

    def end_of_day(self, day: date) -> datetime:
        """Close of business, where a period counted in days ends (Civil Code art. 203)."""
        return self._moment(day, self.working_hours[-1][1])

    def end_of_working_day(self, start: datetime) -> datetime:
        """The first close of business of a working day after `start`, strictly."""
        for day in self._days_from(start):
            if self.is_working_day(day) and self.end_of_day(day) > start:
                return self.end_of_day(day)
        raise AssertionError("unreachable: _days_from raises at its limit")

    def add_working_days(self, start: datetime, count: int) -> datetime:
        """The close of business of the `count`-th working day after the day of `start` (domain 8.3 no. 29)."""
        first = self.local_date(start)
        for day in self._days_from(start, limit=SEARCH_LIMIT + timedelta(days=3 * count)):
            if day > first and self.is_working_day(day):
                count -= 1
                if count <= 0:
                    return self.end_of_day(day)
        raise AssertionError("unreachable: _days_from raises at its limit")

    def add_half_working_days(self, start: datetime, count: int) -> datetime:
        """The moment when `count` halves of a configured working day have been worked (domain 8.3 no. 7)."""
        return self.add_working_time(start, self.half_working_days(count))

    def half_working_days(self, count: int) -> timedelta:
        """The working time in `count` halves of a configured working day."""
        return self.day_length * count / 2

    def add_working_time(self, start: datetime, amount: timedelta) -> datetime:
        """The earliest moment by which `amount` (> 0) of working time has passed since `start`."""
        if amount <= ZERO:
            raise ValueError("the amount must be positive")
        left = amount
        for day in self._days_from(start, limit=SEARCH_LIMIT + 8 * (amount // self.day_length) * timedelta(days=1)):
            for opens, closes in self._spans(day):
                begins = max(opens, start)
                if closes <= begins:
                    continue
                if closes - begins >= left:
                    return (begins + left).astimezone(UTC)
                left -= closes - begins
        raise AssertionError("unreachable: _days_from raises at its limit")

    def working_time_between(self, start: datetime, end: datetime) -> timedelta:
        """Working time in [start, end); zero when `end` is not after `start`."""
        total = ZERO
        day, last = self.local_date(start), self.local_date(end)
        while day <= last:
            for opens, closes in self._spans(day):
                total += max(ZERO, min(closes, end) - max(opens, start))
            day += timedelta(days=1)
        return total

    def next_time_of_day(self, start: datetime, at: time) -> datetime:
        """The first such local time strictly after `start`, on any day."""
        day = self.local_date(start)
        moment = self._moment(day, at)
        return moment if moment > start else self._moment(day + timedelta(days=1), at)

    def rests_on_provisional(self, start: datetime, end: datetime) -> bool:
        """Whether a day between the two is only computed."""
        if self.local_date(end) <= self.published_through:
            return False
        day, last = self.local_date(start), self.local_date(end)
        while day <= last:
            if self.is_provisional(day):
                return True
            day += timedelta(days=1)
        return False

    def _moment(self, day: date, at: time) -> datetime:
        return datetime.combine(day, at, self.tz).astimezone(UTC)

    def _spans(self, day: date) -> tuple[tuple[datetime, datetime], ...]:
        """What is worked on that day, nothing on a day off. Kept: the clocks of many tickets ask for the same days."""
        spans = self._worked.get(day)
        if spans is None:
            hours = self.working_hours if self.is_working_day(day) else ()
            spans = tuple((self._moment(day, start), self._moment(day, end)) for start, end in hours)
            self._worked[day] = spans
        return spans

    def _days_from(self, start: datetime, limit: timedelta = SEARCH_LIMIT) -> Iterator[date]:
        """The local days from that of `start`. Raises: `ValueError` when none of them ends the search."""
        first = day = self.local_date(start)
        while day - first <= limit:
            yield day
            day += timedelta(days=1)
        raise ValueError(f"no working day within {limit.days} days after {first}")

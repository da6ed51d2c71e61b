"""What every part of sla works with: the pack, business time, the working calendar, and the sweep's alarm."""

import asyncio
import time
from datetime import date, datetime
from uuid import UUID

from services.sla.domain.records import Facts, Rulebook
from services.sla.repository import clocks, days, incidents
from services.sla.repository import facts as facts_table
from shared.calendar import WorkingCalendar, package_days
from shared.clock import Clock
from shared.database.connection import Connection
from shared.database.engine import Transaction
from shared.policy import Pack

FIRST_YEAR = 2004
REREAD_SECONDS = 60.0
WHOLE_YEAR_DAYS = 365
OCTOBER = 10
ALARM_SECONDS = 1.0
"""The sweep looks by itself at least this often (real time); only what is due before that must wake it."""


class Almanac:
    """The working calendar in memory, read again every minute so that edited days count."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._calendar: WorkingCalendar | None = None
        self._read_at = 0.0

    @property
    def published_through(self) -> date | None:
        """The last day of the last year whose days are all stored; None before the first read."""
        return self._calendar.published_through if self._calendar is not None else None

    def expire(self) -> None:
        """Read again at the next use."""
        self._read_at = 0.0

    async def get(self, connection: Connection, today: date) -> WorkingCalendar:
        """The calendar, at most a minute old. The first time, years that only the package has are stored."""
        if self._calendar is not None and self._read_at and time.monotonic() - self._read_at < REREAD_SECONDS:
            return self._calendar
        stored = await days.all_days(connection)
        if self._calendar is None:
            # A newer package knows more years; the first start finds none at all.
            after = _published_through(stored, today).year + 1 if stored else FIRST_YEAR
            if fresh := package_days(after, today.year + 2):
                await days.add_missing(connection, fresh)
                stored = await days.all_days(connection)
        self._calendar = WorkingCalendar(
            stored, self._pack.working_hours, self._pack.tz, _published_through(stored, today)
        )
        self._read_at = time.monotonic()
        return self._calendar

    def warnings(self, today: date) -> list[str]:
        """Readiness warns from 1 October on when the next year is not published."""
        through = self.published_through
        if through is None or today.month < OCTOBER or through.year > today.year:
            return []
        return [f"the working calendar of {today.year + 1} is missing; deadlines beyond {through} are provisional"]


def _published_through(stored: dict[date, bool], today: date) -> date:
    """Counted over whole years, so that one day edited far ahead publishes nothing."""
    counts: dict[int, int] = {}
    for day in stored:
        counts[day.year] = counts.get(day.year, 0) + 1
    whole = [year for year, count in counts.items() if count >= WHOLE_YEAR_DAYS]
    return date(max(whole, default=today.year - 1), 12, 31)


class Alarm:
    """Wakes the sweep before its next poll, when a clock begins that is due earlier."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._moment: datetime | None = None

    def set(self, moment: datetime) -> None:
        """A moment (business time) at which something is due."""
        if self._moment is None or moment < self._moment:
            self._moment = moment
            self._event.set()

    def take(self) -> datetime | None:
        """The earliest moment set since the last time."""
        moment, self._moment = self._moment, None
        self._event.clear()
        return moment

    async def wait(self, seconds: float) -> None:
        """Until a moment is set, at most so many real seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass


class Desk:
    """What consumers, jobs and the API share."""

    def __init__(self, pack: Pack, clock: Clock) -> None:
        self.pack = pack
        self.clock = clock
        self.almanac = Almanac(pack)
        self.alarm = Alarm()

    def today(self) -> date:
        """The local date of business time."""
        return self.clock.now().astimezone(self.pack.tz).date()

    async def book(self, connection: Connection) -> Rulebook:
        return Rulebook(self.pack, await self.almanac.get(connection, self.today()))


async def lock_facts(
    connection: Connection,
    ticket_ids: set[UUID],
    *,
    due_by: datetime | None = None,
    kinds: frozenset[str] | None = None,
) -> dict[UUID, Facts]:
    """The facts of these tickets, locked in id order, with their open clock runs; only those of some `kinds` where
    these are given.

    With `due_by`, as the sweep asks: only the runs due by then, and without the tickets that another holds just now.
    """
    if not ticket_ids:
        return {}
    found = await facts_table.lock_many(connection, ticket_ids, skip_locked=due_by is not None)
    for run in await clocks.open_of(connection, found, until=due_by, kinds=kinds) if found else ():
        found[run.ticket_id].runs.append(run)
    return found


async def save_facts(desk: Desk, transaction: Transaction, touched: list[Facts], now: datetime) -> None:
    """Write these facts with their clocks and escalations, and publish what they recorded."""
    connection = transaction.connection
    for facts in touched:
        transaction.publish_pending(facts)
    await facts_table.save(connection, touched)
    runs = [run for facts in touched for run in facts.runs if run.changed]
    if runs:
        await clocks.save(connection, runs)
    raised = [each for facts in touched for each in facts.escalations]
    if raised:
        await incidents.add_escalations(connection, raised)
    answered = [(run.ticket_id, run.clock_id) for run in runs if run.breached_at is not None and not run.open]
    ended = [facts.ticket_id for facts in touched if facts.ended]
    if answered or ended:
        await incidents.settle(connection, answered, ended, now)
    moments = [run.next_at for run in runs if run.next_at is not None]
    if moments and desk.clock.real_seconds_until(min(moments)) < ALARM_SECONDS:
        desk.alarm.set(min(moments))

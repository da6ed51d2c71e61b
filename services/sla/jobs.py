"""Timed work: the sweep that fires what is due, the closing of quiet incidents, the working calendar.

One process leads; the others stand by and take over when it dies. What makes the work correct are the row locks and the
database's time, not the lead.
"""

import asyncio
import logging
import time
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from services.sla.repository import clocks
from services.sla.settings import Settings
from services.sla.usecases.desk import Desk
from services.sla.usecases.fire import Pass, close_quiet_incidents, fire_due, recompute_provisional_clocks
from shared.database.engine import Database
from shared.database.leases import Leases
from shared.errors import Transient
from shared.failpoints import reach
from shared.messaging.log_watch import LogWatch
from shared.operations import figures
from shared.telemetry import metrics

log = logging.getLogger(__name__)

ROLE = "sweep"
BACKOFF_SECONDS = 1.0
LEAD_SECONDS = 1.0
# The least pause between two passes, so that the next finds more: a pass costs 3 ms of CPU for one clock or for ten. A
# clock is announced just before its transaction commits; this is time enough for the commit too.
GATHER_SECONDS = 0.05
INCIDENT_SECONDS = 2.0
ASIDE_SECONDS = 60.0
CALENDAR_SECONDS = 60.0
# In another log nothing is unread at first: the publishers take a moment to send again.
REPLAY_SECONDS = 6.0


class Jobs:
    """The jobs of one process. All times of sleeping and readiness are real seconds."""

    def __init__(self, desk: Desk, database: Database, leases: Leases, watch: LogWatch, settings: Settings) -> None:
        self._desk = desk
        self._database = database
        self._leases = leases
        self._watch = watch
        self._settings = settings
        self._leading = False
        self._swept_at: float | None = None
        self._started = False
        self._aside: dict[UUID, float] = {}
        metrics.sweep_delay_seconds.set_function(self.sweep_delay)

    def sweep_delay(self) -> float:
        """Real seconds since the last finished sweep of this process; 0 before the first."""
        return time.monotonic() - self._swept_at if self._swept_at is not None else 0.0

    # ---- the sweep -----------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Fire what is due, for as long as this process leads."""
        self._started = True
        self._swept_at = time.monotonic()
        lead_again = 0.0
        caught_up = False
        while True:
            try:
                if time.monotonic() >= lead_again:
                    self._leading = await self._leases.leads(ROLE)
                    lead_again = time.monotonic() + LEAD_SECONDS
                if not self._leading:
                    self._swept_at = time.monotonic()
                    caught_up = False
                    await asyncio.sleep(LEAD_SECONDS)
                    continue
                if not caught_up:
                    await self._catch_up()
                    caught_up = True
                done = await self.sweep_once()
                self._swept_at = time.monotonic()
                if not done.more:
                    await self._sleep()
            except Transient as error:
                log.info("the sweep waits", extra={"error": str(error)})
                await asyncio.sleep(BACKOFF_SECONDS)

    async def sweep_once(self) -> Pass:
        """One pass. When it fails for a reason that stays, clock by clock, so that one cannot hold the others."""
        until = time.monotonic()
        self._aside = {ticket: at for ticket, at in self._aside.items() if at > until}
        try:
            return await self._pass(self._settings.sweep_batch)
        except Transient:
            raise
        except Exception:
            log.exception("a sweep failed and is taken clock by clock")
        for _ in range(self._settings.sweep_batch):
            try:
                done = await self._pass(1)
            except Transient:
                raise
            except Exception:
                await self._set_aside()
            else:
                if not done.fired:
                    return done
        return Pass(self._desk.clock.now(), [], True)

    async def _set_aside(self) -> None:
        """Leave out, for a while, the ticket whose clock cannot be fired. Readiness tells, since it stays overdue."""
        now = self._desk.clock.now()
        found = await self._database.read(lambda connection: clocks.due_candidates(connection, now, 1, self._aside))
        for ticket_id, _ in found:
            log.error("a clock cannot be fired", extra={"subject": str(ticket_id)})
            self._aside[ticket_id] = time.monotonic() + ASIDE_SECONDS

    async def _pass(self, limit: int) -> Pass:
        """One transaction."""
        async with self._database.transaction() as transaction:
            done = await fire_due(self._desk, transaction, limit, self._aside)
            if done.fired:
                reach("sweep.fired")
        if done.fired:
            reach("sweep.committed")
        for fired in done.fired:
            metrics.clocks_fired.labels(fired.moment).inc()
            late = (done.now - fired.due).total_seconds() / self._desk.clock.scale
            metrics.clock_lateness_seconds.observe(max(0.0, late))
        return done

    async def _sleep(self) -> None:
        """Until the next moment, a wake-up, or the poll."""
        pause = self._settings.sweep_poll_seconds
        moments = [await self._database.read(clocks.next_due), self._desk.alarm.take()]
        for moment in moments:
            if moment is not None:
                pause = min(pause, max(GATHER_SECONDS, self._desk.clock.real_seconds_until(moment)))
        await self._desk.alarm.wait(pause)

    async def _catch_up(self) -> None:
        """After an outage, let the consumers read first what stopped clocks in time: a breach is never erased. They
        may be other processes.

        Waits only when something is overdue, and only so long.
        """
        if await self._overdue_seconds() <= self._settings.sweep_poll_seconds:
            return
        began = time.monotonic()
        limit = self._settings.catch_up_seconds
        unread = None
        while (waited := time.monotonic() - began) < limit:
            unread = await figures.unread(self._database, self._watch)
            if waited >= REPLAY_SECONDS and not unread:
                break
            self._swept_at = time.monotonic()
            await asyncio.sleep(min(0.5, limit))
        log.info("the sweep begins", extra={"count": unread})

    async def _overdue_seconds(self) -> float:
        """How late the earliest moment is, in real seconds; 0 when nothing is due."""
        moment: datetime | None = await self._database.read(clocks.next_due)
        return max(0.0, -self._desk.clock.real_seconds_until(moment)) if moment is not None else 0.0

    async def check(self) -> str | None:
        """Readiness: why clocks may fire late."""
        try:
            late = await self._overdue_seconds()
        except Transient:
            return "unknown: the database does not answer"
        metrics.clock_overdue_seconds.set(late)
        if self._started and self.sweep_delay() > self._settings.ready_sweep_seconds:
            return f"the last sweep ended {self.sweep_delay():.0f} s ago"
        if late > self._settings.ready_overdue_seconds:
            return f"the earliest moment is {late:.0f} s late"
        return None

    # ---- incidents and calendar ----------------------------------------------------------------------------------

    async def incidents(self) -> None:
        """Close incidents that are quiet, for as long as this process leads."""
        while True:
            await asyncio.sleep(INCIDENT_SECONDS)
            if self._leading:
                with suppress(Transient):
                    await self.close_incidents()

    async def close_incidents(self) -> None:
        """One pass. While events wait to be read, or may wait, nobody knows whether it is quiet."""
        if await figures.unread(self._database, self._watch) != 0:
            return
        async with self._database.transaction() as transaction:
            closed = await close_quiet_incidents(self._desk, transaction)
        if closed:
            log.info("incidents closed", extra={"count": closed})

    async def calendar(self) -> None:
        """Keep the calendar; when a year was published, reckon again what rested on computed days."""
        reckoned = None
        while True:
            try:
                async with self._database.transaction() as transaction:
                    await self._desk.book(transaction.connection)
                through = self._desk.almanac.published_through
                if through is not None:
                    metrics.calendar_days.set((through - self._desk.today()).days)
                if through != reckoned and self._leading:
                    await self._reckon_again()
                    reckoned = through
            except Transient:
                await asyncio.sleep(BACKOFF_SECONDS)
                continue
            await asyncio.sleep(CALENDAR_SECONDS if reckoned is not None else BACKOFF_SECONDS)

    async def _reckon_again(self) -> None:
        after = None
        while True:
            async with self._database.transaction() as transaction:
                book = await self._desk.book(transaction.connection)
                after = await recompute_provisional_clocks(self._desk, transaction, book, after)
            if after is None:
                return

    def warnings(self) -> list[str]:
        return self._desk.almanac.warnings(self._desk.today())

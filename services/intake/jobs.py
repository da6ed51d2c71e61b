"""Timed work of intake, one leader: erase what was kept long enough, and seal anew what an old key sealed."""

import asyncio
import logging
import math
from uuid import UUID

from sqlalchemy import text

from services.intake import repository
from services.intake.usecases.desk import Desk
from services.intake.usecases.erase import erase_expired, reseal
from shared.database.engine import LONG_STATEMENT, Database
from shared.database.leases import Leases
from shared.errors import Transient
from shared.failpoints import reach
from shared.telemetry import metrics

log = logging.getLogger(__name__)

ROLE = "personal data"
ROUND_SECONDS = 60.0
BATCH = 100
# Between two batches, so that they never hold up the front line.
PAUSE_SECONDS = 0.05


class Jobs:
    """The personal data of one intake. `retention_days` is business time; 0 keeps it."""

    def __init__(self, desk: Desk, database: Database, leases: Leases, retention_days: int) -> None:
        self._desk = desk
        self._database = database
        self._leases = leases
        self._retention_days = retention_days
        # Whether this process is the one that tells; until another is found to lead, it is.
        self._in_charge = False
        self._waiting: int | None = None
        self._unreadable = 0

    async def keep(self) -> None:
        """Both kinds of work, every minute, for as long as this process leads."""
        self._in_charge = True
        while True:
            try:
                if await self._leases.leads(ROLE):
                    await self.keep_once()
                else:
                    self._in_charge, self._waiting = False, None
                    metrics.personal_old_key_rows.set(math.nan)
            except Transient as error:
                log.info("personal data wait", extra={"error": str(error)})
            await asyncio.sleep(ROUND_SECONDS)

    async def keep_once(self) -> None:
        """The count comes last: right after a change of keys it would read every ticket there is."""
        self._in_charge = True
        await self._erase()
        failed: list[UUID] = []
        await self._reseal(failed)
        await self._count(failed)

    async def _erase(self) -> None:
        if not self._retention_days:
            return
        erased = BATCH
        while erased == BATCH:
            async with self._database.transaction() as transaction:
                erased = await erase_expired(self._desk, transaction, self._retention_days, BATCH)
                if erased:
                    reach("retention.written")
            if erased:
                reach("retention.committed")
                log.info("erased by age", extra={"count": erased})
                await asyncio.sleep(PAUSE_SECONDS)

    async def _reseal(self, failed: list[UUID]) -> None:
        looked_at = BATCH
        while looked_at == BATCH and len(failed) < BATCH:
            async with self._database.transaction() as transaction:
                looked_at = await reseal(self._desk, transaction, BATCH, failed)
                reach("reseal.written")
            reach("reseal.committed")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _count(self, failed: list[UUID]) -> None:
        vault = self._desk.vault
        async with self._database.transaction() as transaction:
            await transaction.connection.execute(text(f"SET LOCAL statement_timeout = '{LONG_STATEMENT}'"))
            known, unknown = await repository.sealed_with_others(
                transaction.connection, vault.prefix, vault.older_prefixes
            )
        self._unreadable = unknown + len(failed)
        self._waiting = max(0, known - len(failed))
        metrics.personal_old_key_rows.set(known + unknown)

    def warnings(self) -> list[str]:
        """Readiness warns: an old key may go only when nothing is sealed with it any more."""
        if not self._in_charge:
            return []
        if self._waiting is None:
            return ["how many tickets are still sealed with an old key is not known yet"]
        found = []
        if self._unreadable:
            found.append(f"{_many(self._unreadable)} tickets are sealed with a key that is not in INTAKE_DATA_KEY")
        if self._waiting:
            found.append(f"{_many(self._waiting)} tickets are still sealed with an old key")
        return found


def _many(count: int) -> str:
    return f"more than {repository.COUNTED}" if count > repository.COUNTED else str(count)

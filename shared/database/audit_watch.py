"""The background check of the audit trail, one leader a service: all of it once a day, what is new every ten minutes.

The outcome is a metric, for an alert. Whoever asks for a check over HTTP sets the same metric.
"""

import asyncio
import logging

from sqlalchemy import text

from shared.database.audit import AuditReport, Head, verify
from shared.database.connection import Connection
from shared.database.engine import Database
from shared.database.leases import Leases
from shared.errors import Conflict, Transient
from shared.telemetry import metrics

log = logging.getLogger(__name__)

ROLE = "audit watch"
CHECK_SECONDS = 600.0
WHOLE_SECONDS = 86_400.0

_RIGHT = text("SELECT pg_try_advisory_lock(hashtext('gongdan audit'))")


class AuditWatch:
    """Compares the audit trail of one service with its chain until cancelled."""

    def __init__(self, database: Database, leases: Leases) -> None:
        self._database = database
        self._leases = leases
        self._head: Head | None = None
        self._whole_at = 0.0
        self._broken = False

    async def run(self) -> None:
        while True:
            try:
                if await self._leases.leads(ROLE):
                    await self.check()
                else:
                    self._head = None
            except Transient as error:
                log.info("the check of the audit trail waits", extra={"error": str(error)})
            await asyncio.sleep(CHECK_SECONDS)

    async def check(self) -> AuditReport:
        """The whole trail when that is due or something was wrong, else what came behind the last check; and that the
        head of the last good check still stands, so that a chain once cut stays broken for as long as we remember."""
        now = asyncio.get_running_loop().time()
        head, whole = self._head, self._head is None or self._broken or now >= self._whole_at
        first = 1 if whole or head is None else head.number + 1
        report = await self._database.read(lambda connection: verify(connection, expect=head, first=first))
        self._broken = not report.intact
        if whole:
            self._whole_at = now + WHOLE_SECONDS
        if whole or self._broken:
            tell(report)
        if report.intact:
            self._head = report.head
        return report


async def check_alone(database: Database, *, expect: Head | None, first: int) -> AuditReport:
    """One check at a time in all processes, on a connection beside the pool, however long it takes.

    Raises `Conflict` (`audit_running`) while another one runs.
    """

    async def run(connection: Connection) -> AuditReport:
        if not await connection.scalar(_RIGHT):
            raise Conflict("audit_running", "a check of this audit trail is running; wait for its end")
        return await verify(connection, expect=expect, first=first)

    apart = database.apart()
    try:
        return await apart.read(run)
    finally:
        # The right ends with the connection.
        await apart.close()


def tell(report: AuditReport) -> None:
    """Show the outcome in the metric and, where something was changed, in the log."""
    metrics.audit_chain_broken.set(0 if report.intact else 1)
    for fault in report.faults:
        log.critical("the audit trail was altered", extra={"seal": fault.seal, "error": fault.detail})

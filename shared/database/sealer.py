"""The background work that seals the audit trail, one leader a service; and the chain's head in the log.

The head is logged when this process takes the lead, every hour and at the end, so that a copy of the logs tells later
whether the tail of the chain was cut off (`python -m services.<name> audit --expect`).
"""

import asyncio
import logging

from shared.database.audit import ROWS_A_SEAL, Head, Sealed, seal
from shared.database.engine import Database
from shared.database.leases import Leases
from shared.errors import Transient
from shared.failpoints import reach
from shared.telemetry import metrics

log = logging.getLogger(__name__)

ROLE = "audit"
SEAL_SECONDS = 1.0
HEAD_SECONDS = 3600.0


class Sealer:
    """Seals the audit trail of one service until cancelled."""

    def __init__(self, database: Database, leases: Leases) -> None:
        self._database = database
        self._leases = leases
        self._head: Head | None = None
        self._tell_at = 0.0

    async def run(self) -> None:
        try:
            while True:
                full = False
                try:
                    if await self._leases.leads(ROLE):
                        full = (await self.seal_once()).rows == ROWS_A_SEAL
                    else:
                        self._head, self._tell_at = None, 0.0
                        metrics.audit_unsealed_seconds.set(0)
                except Transient as error:
                    log.info("the audit trail waits for its seal", extra={"error": str(error)})
                if not full:
                    await asyncio.sleep(SEAL_SECONDS)
        finally:
            self._tell()

    async def seal_once(self) -> Sealed:
        """Seal what is new, in one transaction."""
        async with self._database.transaction() as transaction:
            done = await seal(transaction.connection)
            if done.rows:
                reach("seal.written")
        if done.rows:
            reach("seal.committed")
        self._head = done.head
        metrics.audit_seals.inc(1 if done.rows else 0)
        metrics.audit_unsealed_seconds.set(done.oldest_unsealed_seconds)
        now = asyncio.get_running_loop().time()
        if now >= self._tell_at:
            self._tell()
            self._tell_at = now + HEAD_SECONDS
        return done

    def _tell(self) -> None:
        if self._head is not None:
            log.info("head of the audit trail", extra={"seal": self._head.number, "hash": self._head.hash})

"""Topics that a service does not read for now, by whom and why. The consumers look here every second.

A pause counts for every process of the service and outlives restarts. A consumer that stops because too many records in
a row could not be applied writes itself down here too, so that `resume` is the one way on.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text

from shared.database.connection import Connection
from shared.database.engine import Database, Transaction
from shared.failpoints import reach
from shared.telemetry import metrics

ALL = "*"
"""Stands for every topic."""

STOPPED_BY = "consumer"
"""Who paused, when the consumer stopped by itself. Actors of people hold a colon, so that none can have this name."""


class Pause(NamedTuple):
    topic: str
    paused_at: datetime
    paused_by: str
    reason: str


async def pauses(connection: Connection) -> dict[str, Pause]:
    rows = await connection.execute(text("SELECT topic, paused_at, paused_by, reason FROM paused_topics"))
    return {row.topic: Pause(row.topic, row.paused_at, row.paused_by, row.reason) for row in rows}


def pause_of(found: Mapping[str, Pause], topic: str) -> Pause | None:
    """What keeps this topic from being read, if anything."""
    return found.get(ALL) or found.get(topic)


class Pauses:
    """The pauses as one process knows them, since it last looked."""

    def __init__(self) -> None:
        self._found: dict[str, Pause] = {}

    async def look(self, database: Database) -> None:
        self._found = await database.read(pauses)
        metrics.consumer_paused.set(len(self._found) - (self.stop is not None))
        metrics.consumer_stopped.set(self.stop is not None)

    @property
    def stop(self) -> str | None:
        """Why reading stopped by itself, where it did."""
        found = self._found.get(ALL)
        return found.reason if found is not None and found.paused_by == STOPPED_BY else None

    def hold(self, topic: str) -> bool:
        return pause_of(self._found, topic) is not None


async def pause(transaction: Transaction, topic: str, *, actor: str, reason: str) -> None:
    """From now on the topic is not read. Again on a paused topic: the newer reason holds."""
    await transaction.connection.execute(
        text(
            "INSERT INTO paused_topics (topic, paused_by, reason) VALUES (:topic, :actor, :reason)"
            " ON CONFLICT (topic) DO UPDATE SET paused_at = now(), paused_by = :actor, reason = :reason"
        ),
        {"topic": topic, "actor": actor, "reason": reason},
    )
    transaction.audit("reading.paused", actor=actor, subject=topic, details={"reason": reason})
    reach("pause.written")


async def resume(transaction: Transaction, topic: str, *, actor: str, reason: str | None) -> list[str]:
    """Read the topic again; `*` lifts every pause. The topics whose pause was lifted."""
    rows = await transaction.connection.execute(
        text("DELETE FROM paused_topics WHERE topic = :topic OR :topic = '*' RETURNING topic"), {"topic": topic}
    )
    lifted = sorted(row.topic for row in rows)
    for each in lifted:
        transaction.audit("reading.resumed", actor=actor, subject=each, details={"reason": reason})
    reach("resume.written")
    return lifted

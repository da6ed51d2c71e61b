"""Erased tickets: their texts are taken out of what the plumbing keeps, and out of whatever still comes about them.

The consumer notes the ticket of a `ticket.erased` in the transaction that applies it (`batch.py`); from then on every
event about that ticket is blanked before it is applied, so that neither a late event of another publisher nor a replay
brings a text back. The `Scrubber` then takes the texts out of the outbox, of parked events, of dead letters and of
answers kept for retries. What the service's own tables hold is its projection's business.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.contracts.erasure import without_texts
from shared.contracts.registry import MODELS
from shared.database.engine import LONG_STATEMENT, Database
from shared.database.leases import Leases
from shared.errors import Transient
from shared.failpoints import reach
from shared.messaging.inbox import headers_in, headers_out

log = logging.getLogger(__name__)

ROLE = "erasure"
SCRUB_SECONDS = 1.0
SUBJECTS_A_PASS = 100
DEAD = "dead.letter"

_UNSCRUBBED = text(
    "SELECT subject FROM erased_subjects WHERE scrubbed_at IS NULL ORDER BY erased_at LIMIT :count"
    " FOR UPDATE SKIP LOCKED"
)
_OUTBOX = text("SELECT id, created_at, type, headers, payload FROM outbox WHERE subject = ANY(:ids)")
_REWRITE_OUTBOX = text(
    "UPDATE outbox SET headers = given.headers, payload = given.payload FROM unnest(CAST(:ids AS bigint[]),"
    " CAST(:moments AS timestamptz[]), CAST(:headers AS bytea[]), CAST(:payloads AS bytea[]))"
    " AS given(id, created_at, headers, payload)"
    " WHERE outbox.id = given.id AND outbox.created_at = given.created_at"
)
_PARKED = text("SELECT subject, publisher, version, headers, payload FROM parked_events WHERE subject = ANY(:ids)")
_REWRITE_PARKED = text(
    "UPDATE parked_events SET payload = :payload"
    " WHERE subject = :subject AND publisher = :publisher AND version = :version"
)
# What comes from outside names its ticket in `ce_subject`, whatever its key is.
_DEAD = text(
    "SELECT id, headers, payload FROM dead_letters WHERE record_key = ANY(CAST(:keys AS bytea[])) OR EXISTS"
    " (SELECT 1 FROM unnest(CAST(:keys AS bytea[])) AS key WHERE position(key IN headers) > 0)"
)
_REWRITE_DEAD = text("UPDATE dead_letters SET headers = :headers, payload = :payload WHERE id = :id")
_FORGET_ANSWERS = text(
    "DELETE FROM idempotency_keys WHERE EXISTS"
    " (SELECT 1 FROM unnest(CAST(:keys AS bytea[])) AS key WHERE position(key IN answer) > 0)"
)
_SCRUBBED = text("UPDATE erased_subjects SET scrubbed_at = now() WHERE subject = ANY(:ids)")


async def erased_of(connection: AsyncConnection, subjects: Iterable[UUID]) -> set[UUID]:
    """Which of these are erased."""
    rows = await connection.execute(
        text("SELECT subject FROM erased_subjects WHERE subject = ANY(:subjects)"), {"subjects": list(subjects)}
    )
    return {row[0] for row in rows}


async def note_erased(connection: AsyncConnection, subjects: Iterable[UUID]) -> None:
    await connection.execute(
        text("INSERT INTO erased_subjects (subject) SELECT unnest(CAST(:ids AS uuid[])) ON CONFLICT DO NOTHING"),
        {"ids": sorted(subjects)},
    )


async def scrub_again(connection: AsyncConnection, subjects: Iterable[UUID]) -> None:
    """Something that may hold their texts was stored after they were taken out."""
    await connection.execute(
        text("UPDATE erased_subjects SET scrubbed_at = NULL WHERE subject = ANY(:ids)"), {"ids": sorted(subjects)}
    )


class Scrubber:
    """Takes the texts of erased tickets out of one service's plumbing, until cancelled; one leader a service."""

    def __init__(self, database: Database, leases: Leases) -> None:
        self._database = database
        self._leases = leases

    async def run(self) -> None:
        while True:
            full = False
            try:
                if await self._leases.leads(ROLE):
                    full = await self.scrub_once() == SUBJECTS_A_PASS
            except Transient as error:
                log.info("erasure waits", extra={"error": str(error)})
            if not full:
                await asyncio.sleep(SCRUB_SECONDS)

    async def scrub_once(self) -> int:
        """One pass in one transaction; the number of tickets.

        The outbox has no index by ticket, so a pass reads it once for up to 100 tickets.
        """
        async with self._database.transaction() as transaction:
            connection = transaction.connection
            ids = list((await connection.execute(_UNSCRUBBED, {"count": SUBJECTS_A_PASS})).scalars())
            if not ids:
                return 0
            await connection.execute(text(f"SET LOCAL statement_timeout = '{LONG_STATEMENT}'"))
            await _scrub_outbox(connection, ids)
            await _scrub_waiting(connection, ids)
            await connection.execute(_FORGET_ANSWERS, {"keys": [str(each).encode() for each in ids]})
            await connection.execute(_SCRUBBED, {"ids": ids})
            reach("erasure.written")
        reach("erasure.committed")
        log.info("texts erased", extra={"count": len(ids)})
        return len(ids)


async def _scrub_outbox(connection: AsyncConnection, ids: list[UUID]) -> None:
    rows = (await connection.execute(_OUTBOX, {"ids": ids})).all()
    if not rows:
        return
    rewritten = [
        _dead(row) if row.type == DEAD else (row.headers, scrubbed(row.type, bytes(row.payload))) for row in rows
    ]
    await connection.execute(
        _REWRITE_OUTBOX,
        {
            "ids": [row.id for row in rows],
            "moments": [row.created_at for row in rows],
            "headers": [headers for headers, _ in rewritten],
            "payloads": [payload for _, payload in rewritten],
        },
    )


async def _scrub_waiting(connection: AsyncConnection, ids: list[UUID]) -> None:
    for row in (await connection.execute(_PARKED, {"ids": ids})).all():
        payload = scrubbed(_type(bytes(row.headers)), bytes(row.payload))
        given = {"subject": row.subject, "publisher": row.publisher, "version": row.version}
        await connection.execute(_REWRITE_PARKED, {**given, "payload": payload})
    for row in (await connection.execute(_DEAD, {"keys": [str(each).encode() for each in ids]})).all():
        headers, payload = _dead(row)
        await connection.execute(_REWRITE_DEAD, {"id": row.id, "headers": headers, "payload": payload})


def scrubbed(kind: str, payload: bytes) -> bytes:
    """An event's data without its texts; nothing at all where it cannot be read."""
    model = MODELS.get(kind)
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return b""
    if model is None or not isinstance(data, dict):
        return b""
    return orjson.dumps(without_texts(model, data))


def _dead(row: Any) -> tuple[bytes, bytes]:
    """A dead letter's headers and data: of headers that are not ours nobody knows what they hold."""
    headers = headers_in(bytes(row.headers))
    kept = [(name, value) for name, value in headers if name.startswith(("ce_", "dead_"))]
    return headers_out(kept), scrubbed(_type(bytes(row.headers)), bytes(row.payload or b""))


def _type(headers: bytes) -> str:
    return dict(headers_in(headers)).get("ce_type", b"").decode("utf-8", "replace")

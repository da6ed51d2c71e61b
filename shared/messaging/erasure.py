"""Erased tickets: their texts are taken out of what the plumbing keeps, and out of whatever still comes about them.

The consumer notes the ticket of a `ticket.erased` in the transaction that applies it (`batch.py`); from then on every
event about that ticket is blanked before it is applied, so that neither a late event of another publisher nor a replay
brings a text back. The `Scrubber` then takes the texts out of the outbox, of parked events, of dead letters and of
answers kept for retries. What the service's own tables hold is its projection's business.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text

from shared.contracts.erasure import without_texts
from shared.contracts.registry import MODELS
from shared.database.connection import Connection
from shared.database.engine import LONG_STATEMENT, Database
from shared.database.leases import Leases
from shared.errors import Transient
from shared.failpoints import reach
from shared.messaging import outbox
from shared.messaging.inbox import headers_in, headers_out

log = logging.getLogger(__name__)

ROLE = "erasure"
SCRUB_SECONDS = 1.0
SUBJECTS_A_PASS = 100
RETRY_SECONDS = 600.0
DEAD = "dead.letter"

_UNSCRUBBED = text(
    "SELECT subject FROM erased_subjects WHERE scrubbed_at IS NULL AND subject <> ALL(:besides)"
    " ORDER BY erased_at LIMIT :count"
)
_OUTBOX = text(
    "SELECT id, created_at, type, headers, payload FROM outbox"
    " WHERE id BETWEEN :first AND :upto AND subject = ANY(:ids)"
)
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
# An answer may be a page of several tickets. Measured for 100 tickets in 100,000 answers of 2 KiB: split once each as
# here 1.8 s, a regular expression 6.5 s, each ticket looked for in each answer 46 s; of 0.2 KiB: 0.1, 3.5 and 2.3 s.
_FORGET_ANSWERS = text(
    "DELETE FROM idempotency_keys WHERE EXISTS (SELECT 1 FROM"
    """ unnest(string_to_array(encode(answer, 'escape'), '"ticket_id":"')) AS part"""
    " WHERE left(part, 36) = ANY(:ids))"
)
# Not those of which something was stored meanwhile (`scrub_again`).
_SCRUBBED = text("UPDATE erased_subjects SET scrubbed_at = now() WHERE subject = ANY(:ids) AND erased_at < :began")


async def erased_of(connection: Connection, subjects: Iterable[UUID]) -> set[UUID]:
    """Which of these are erased."""
    rows = await connection.execute(
        text("SELECT subject FROM erased_subjects WHERE subject = ANY(:subjects)"), {"subjects": list(subjects)}
    )
    return {row[0] for row in rows}


async def note_erased(connection: Connection, subjects: Iterable[UUID]) -> None:
    await connection.execute(
        text("INSERT INTO erased_subjects (subject) SELECT unnest(CAST(:ids AS uuid[])) ON CONFLICT DO NOTHING"),
        {"ids": sorted(subjects)},
    )


async def scrub_again(connection: Connection, subjects: Iterable[UUID]) -> None:
    """Something that may hold their texts was stored after they were taken out."""
    await connection.execute(
        text("UPDATE erased_subjects SET scrubbed_at = NULL, erased_at = clock_timestamp() WHERE subject = ANY(:ids)"),
        {"ids": sorted(subjects)},
    )


class Scrubber:
    """Takes the texts of erased tickets out of one service's plumbing, until cancelled; one leader a service."""

    def __init__(self, database: Database, leases: Leases) -> None:
        self._database = database
        self._leases = leases
        self._failed: dict[UUID, float] = {}

    async def run(self) -> None:
        while True:
            full = False
            try:
                if await self._leases.leads(ROLE):
                    full = await self.scrub_once() == SUBJECTS_A_PASS
            except Transient as error:
                log.info("erasure waits", extra={"error": str(error)})
            except Exception as error:
                # Its kind only: what the database says may quote a text.
                log.error("erasure failed", extra={"error": type(error).__name__})
            if not full:
                await asyncio.sleep(SCRUB_SECONDS)

    async def scrub_once(self) -> int:
        """One pass for up to 100 tickets; how many. One that fails is left out for the next ten minutes."""
        now = time.monotonic()
        self._failed = {each: at for each, at in self._failed.items() if now - at < RETRY_SECONDS}
        given = {"count": SUBJECTS_A_PASS, "besides": list(self._failed)}
        found = await self._database.read(lambda connection: connection.execute(_UNSCRUBBED, given))
        ids = found.scalars()
        if not ids:
            return 0
        try:
            await self._scrub(ids)
        except Transient:
            raise
        except Exception:
            for each in ids:
                await self._scrub_alone(each)
        return len(ids)

    async def _scrub_alone(self, subject: UUID) -> None:
        try:
            await self._scrub([subject])
        except Transient:
            raise
        except Exception as error:
            self._failed[subject] = time.monotonic()
            told = {"ticket_id": str(subject), "error": type(error).__name__}
            log.error("the texts of a ticket cannot be erased", extra=told)

    async def _scrub(self, ids: list[UUID]) -> None:
        """Short transactions, each safe to repeat; the outbox in pieces, for the relay waits for its rows.

        The outbox has no index by ticket, so a pass reads it once for up to 100 tickets.
        """
        async with self._database.transaction() as transaction:
            began = await transaction.now()
        for step in (_forget_answers, _scrub_parked, _scrub_dead):
            async with self._database.transaction() as transaction:
                await transaction.connection.execute(text(f"SET LOCAL statement_timeout = '{LONG_STATEMENT}'"))
                await step(transaction.connection, ids)
        first, last = await self._database.read(lambda connection: outbox.ids_behind(connection, 0))
        for start in range(first, last + 1, outbox.CHUNK_IDS):
            async with self._database.transaction() as transaction:
                await _scrub_outbox(transaction.connection, ids, start, start + outbox.CHUNK_IDS - 1)
        async with self._database.transaction() as transaction:
            await transaction.connection.execute(_SCRUBBED, {"ids": ids, "began": began})
            reach("erasure.written")
        reach("erasure.committed")
        log.info("texts erased", extra={"count": len(ids)})


async def _forget_answers(connection: Connection, ids: list[UUID]) -> None:
    await connection.execute(_FORGET_ANSWERS, {"ids": [str(each) for each in ids]})


async def _scrub_parked(connection: Connection, ids: list[UUID]) -> None:
    for row in (await connection.execute(_PARKED, {"ids": ids})).all():
        payload = scrubbed(_type(_headers(row.headers)), bytes(row.payload))
        given = {"subject": row.subject, "publisher": row.publisher, "version": row.version}
        await connection.execute(_REWRITE_PARKED, {**given, "payload": payload})


async def _scrub_dead(connection: Connection, ids: list[UUID]) -> None:
    for row in (await connection.execute(_DEAD, {"keys": [str(each).encode() for each in ids]})).all():
        headers, payload = _dead(row)
        await connection.execute(_REWRITE_DEAD, {"id": row.id, "headers": headers, "payload": payload})


async def _scrub_outbox(connection: Connection, ids: list[UUID], first: int, upto: int) -> None:
    rows = (await connection.execute(_OUTBOX, {"ids": ids, "first": first, "upto": upto})).all()
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


def scrubbed(kind: str, payload: bytes) -> bytes:
    """An event's data without its texts; nothing at all where it cannot be read or written. Never raises."""
    model = MODELS.get(kind)
    try:
        data = orjson.loads(payload)
        # It may be nested more deeply than orjson writes (254 levels), or than Python calls.
        return orjson.dumps(without_texts(model, data)) if model is not None and isinstance(data, dict) else b""
    except (ValueError, TypeError, RecursionError):
        return b""


def _dead(row: Any) -> tuple[bytes, bytes]:
    """A dead letter's headers and data: of headers that are not ours nobody knows what they hold. Never raises."""
    headers = _headers(row.headers)
    kept = [(name, value) for name, value in headers if name.startswith(("ce_", "dead_"))]
    return headers_out(kept), scrubbed(_type(headers), bytes(row.payload or b""))


def _headers(stored: bytes) -> Sequence[tuple[str, bytes]]:
    """None where they cannot be read."""
    try:
        return [(str(name), value) for name, value in headers_in(bytes(stored))]
    except (ValueError, TypeError, AttributeError):
        return []


def _type(headers: Sequence[tuple[str, bytes]]) -> str:
    return dict(headers).get("ce_type", b"").decode("utf-8", "replace")

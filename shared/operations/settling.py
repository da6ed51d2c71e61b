"""Settling dead letters: applied again (`redriven`), or given up for a reason (`discarded`).

What must stay true:
* the letter's row is locked first and must still be open, so that two operators settle it once;
* a redrive goes the consumer's way (`messaging/application.py`), in one transaction with the letter's new state; no
  offset moves, for the log was passed when the letter was made;
* a discard moves the subject's version over the event only when it is the next one: nothing before it is skipped.
"""

import logging
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import text

from shared.contracts.envelope import MalformedEnvelope, read_envelope
from shared.contracts.registry import COMMANDS, MODELS
from shared.contracts.topics import producers_of
from shared.database.connection import Connection
from shared.database.engine import Database, Transaction
from shared.errors import DomainError, NotFound, Poison, Transient
from shared.failpoints import reach
from shared.messaging import inbox
from shared.messaging.application import Applier
from shared.messaging.dead_letters import reason_of
from shared.messaging.events import Event, Record
from shared.messaging.tables import DeadLetterState
from shared.operations import letters
from shared.operations.letters import DeadLetter

log = logging.getLogger(__name__)

_OPEN = text(
    "SELECT id FROM dead_letters WHERE state = 'open' AND id > :after"
    " AND (CAST(:topic AS text) IS NULL OR topic = :topic)"
    " AND (CAST(:error AS text) IS NULL OR strpos(lower(error), lower(:error)) > 0)"
    " AND (CAST(:since AS timestamptz) IS NULL OR failed_at >= :since) ORDER BY id LIMIT :limit"
)


class Settled(BaseModel):
    """What became of one dead letter. `released`: how many events that were parked behind it took effect with it."""

    id: int
    state: DeadLetterState
    detail: str
    released: int = 0


class StillWaiting(Exception):
    """Applied now, the event would only be parked."""


async def open_letters(
    connection: Connection,
    *,
    topic: str | None = None,
    error: str | None = None,
    since: datetime | None = None,
    after: int = 0,
    limit: int,
) -> list[int]:
    """The ids of open dead letters behind `after`, oldest first: what failed earlier is repaired earlier."""
    values = {"topic": topic, "error": error, "since": since, "after": after, "limit": limit}
    return [row.id for row in await connection.execute(_OPEN, values)]


async def redrive(
    database: Database, applier: Applier[Any], letter_id: int, *, actor: str, reason: str | None
) -> Settled:
    """Apply a dead letter again; when that fails it stays open with the new reason. Raises `NotFound`, `Transient`."""
    try:
        return await _redrive(database, applier, letter_id, actor, reason)
    except (NotFound, Transient):
        raise
    except Exception as error:
        why = str(error) if isinstance(error, StillWaiting) else reason_of(error)
        if not isinstance(error, Poison | DomainError | StillWaiting):
            log.error("a redrive failed", exc_info=error)
        async with database.transaction() as transaction:
            await transaction.connection.execute(
                text(
                    "UPDATE dead_letters SET error = :error, attempts = least(attempts + 1, 32767)"
                    " WHERE id = :id AND state = 'open'"
                ),
                {"id": letter_id, "error": why},
            )
            transaction.audit(
                "dead_letter.redrive_failed",
                actor=actor,
                subject=f"dead_letter/{letter_id}",
                details={"reason": reason, "error": why},
            )
        return Settled(id=letter_id, state=DeadLetterState.open, detail=why)


async def _redrive(
    database: Database, applier: Applier[Any], letter_id: int, actor: str, reason: str | None
) -> Settled:
    before = await database.read(lambda connection: letters.find(connection, letter_id))
    if before.letter.state is not DeadLetterState.open:
        return _settled_before(before.letter)
    event = applier.decode(before.record)
    await applier.answer_replays([event], lambda: None)
    async with database.transaction() as transaction:
        letter = (await letters.find(transaction.connection, letter_id, lock=True)).letter
        if letter.state is not DeadLetterState.open:
            return _settled_before(letter)
        batch = await applier.apply(transaction, [event])
        if (waits := batch.waits_for(event)) is not None:
            raise StillWaiting(waits)
        detail = "applied" if batch.applied else "its effect was there already"
        await _settle(transaction, letter, DeadLetterState.redriven, actor, reason, batch.released)
        reach("redrive.written")
    reach("redrive.committed")
    return Settled(id=letter_id, state=DeadLetterState.redriven, detail=detail, released=batch.released)


async def discard(database: Database, applier: Applier[Any], letter_id: int, *, actor: str, reason: str) -> Settled:
    """Give a dead letter up. What the event says will never count here; the subject's later events go on without it.

    It stays open when an earlier event of the subject is missing too. Raises `NotFound`, `Transient`.
    """
    async with database.transaction() as transaction:
        found = await letters.find(transaction.connection, letter_id, lock=True)
        if found.letter.state is not DeadLetterState.open:
            return _settled_before(found.letter)
        event = _counted(found.record)
        released = 0
        detail = "given up; it carries no version, so that nothing waited behind it"
        if event is not None:
            last = await _last_version(transaction, event)
            if (event.version or 0) > last + 1:
                why = f"version {last + 1} of {event.subject} is missing too: settle that one first"
                return Settled(id=letter_id, state=DeadLetterState.open, detail=why)
            released, detail = await _pass_over(transaction, applier, event, last)
        await _settle(transaction, found.letter, DeadLetterState.discarded, actor, reason, released)
        reach("discard.written")
    reach("discard.committed")
    return Settled(id=letter_id, state=DeadLetterState.discarded, detail=detail, released=released)


async def _last_version(transaction: Transaction, event: Event) -> int:
    """How far this publisher's events of the subject took effect; no other process moves it before our commit."""
    await inbox.hold(transaction.connection, [event.subject])
    stream = (event.publisher, event.subject)
    return (await inbox.versions(transaction.connection, [stream])).get(stream, 0)


async def _pass_over(transaction: Transaction, applier: Applier[Any], event: Event, last: int) -> tuple[int, str]:
    if (event.version or 0) <= last:
        return 0, "given up; another copy of the event had taken effect already"
    batch = await applier.pass_over(transaction, event)
    return batch.released, f"given up: {event.type} version {event.version} has no effect here, now or later"


def _counted(record: Record) -> Event | None:
    """The event whose place in its subject's line this record takes; None for a command, or what is none of ours."""
    try:
        envelope = read_envelope(record.headers)
    except MalformedEnvelope:
        return None
    model = MODELS.get(envelope.type)
    belongs = envelope.publisher in producers_of(record.topic) and (
        model is None or record.topic == model.TOPIC  # type: ignore[attr-defined]
    )
    if envelope.type in COMMANDS or envelope.sequence is None or not belongs:
        return None
    return Event(envelope, None, record)


async def _settle(
    transaction: Transaction, letter: DeadLetter, state: DeadLetterState, actor: str, reason: str | None, released: int
) -> None:
    await transaction.connection.execute(
        text(
            "UPDATE dead_letters SET state = :state, settled_at = clock_timestamp(), settled_by = :actor,"
            " settled_reason = :reason WHERE id = :id"
        ),
        {"id": letter.id, "state": state, "actor": actor, "reason": reason},
    )
    transaction.audit(
        f"dead_letter.{state}",
        actor=actor,
        subject=letter.key or f"dead_letter/{letter.id}",
        details={
            "dead_letter": letter.id,
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "type": letter.type,
            "version": letter.version,
            "reason": reason,
            "released": released,
        },
    )


def _settled_before(letter: DeadLetter) -> Settled:
    by = f"{letter.state} by {letter.settled_by} at {letter.settled_at:%Y-%m-%dT%H:%M:%SZ}"
    return Settled(id=letter.id, state=letter.state, detail=f"nothing to do: {by}")

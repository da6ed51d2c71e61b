"""Dead letters as operators see them: a page, one with its text masked, or one with its bytes as they came."""

import base64
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import text

from shared.contracts.envelope import MalformedEnvelope, read_envelope
from shared.database.connection import Connection
from shared.database.engine import Transaction
from shared.errors import NotFound
from shared.messaging.events import Record
from shared.messaging.inbox import headers_in
from shared.messaging.tables import DeadLetterState
from shared.privacy import mask

SHOWN_CHARACTERS = 16_000

_COLUMNS = (
    "id, topic, partition, record_offset, record_key, headers, payload, error, attempts, failed_at, state, settled_at,"
    " settled_by, settled_reason"
)
_PAGE = text(
    f"SELECT {_COLUMNS} FROM dead_letters WHERE id < :below"  # noqa: S608
    " AND (CAST(:state AS text) IS NULL OR state = :state) AND (CAST(:topic AS text) IS NULL OR topic = :topic)"
    " AND (CAST(:error AS text) IS NULL OR strpos(lower(error), lower(:error)) > 0) ORDER BY id DESC LIMIT :limit"
)
_ONE = f"SELECT {_COLUMNS} FROM dead_letters WHERE id = :id"  # noqa: S608
# Beyond the largest number of a row, and what every reader of JSON holds exactly (RFC 8259, section 6).
NEWEST = 2**53


class DeadLetter(BaseModel):
    """One record that could not be applied. `type`, `publisher`, `version` are None where its headers do not say."""

    id: int
    topic: str
    partition: int
    offset: int
    key: str | None
    type: str | None
    publisher: str | None
    version: int | None
    error: str
    attempts: int
    failed_at: datetime
    state: DeadLetterState
    settled_at: datetime | None
    settled_by: str | None
    settled_reason: str | None


class ShownDeadLetter(DeadLetter):
    """With headers and payload as text: phone, identity and card numbers masked, at most 16,000 characters each."""

    headers: list[tuple[str, str]]
    payload: str | None
    payload_bytes: int


class RawDeadLetter(BaseModel):
    """The record as it came; bytes as base64. It may hold personal data that a branch wrote."""

    id: int
    key: str | None
    headers: list[tuple[str, str]]
    payload: str | None


class Row(NamedTuple):
    """A dead letter with its record, for who applies it again."""

    letter: DeadLetter
    record: Record


async def page(
    connection: Connection,
    *,
    state: DeadLetterState | None,
    topic: str | None,
    error: str | None,
    below: int,
    limit: int,
) -> list[DeadLetter]:
    """Newest first, with ids below `below`. `error` is a part of the reason, in any case."""
    values = {"state": state, "topic": topic, "error": error, "below": below, "limit": limit}
    return [_row(row).letter for row in await connection.execute(_PAGE, values)]


async def find(connection: Connection, letter_id: int, *, lock: bool = False) -> Row:
    """Raises `NotFound`."""
    row = (await connection.execute(text(_ONE + (" FOR UPDATE" if lock else "")), {"id": letter_id})).first()
    if row is None:
        raise NotFound("dead_letter_not_found", "no dead letter of this number")
    return _row(row)


async def show(connection: Connection, letter_id: int) -> ShownDeadLetter:
    """Raises `NotFound`. Names cannot be told from other words and stay; numbers are masked."""
    found = await find(connection, letter_id)
    value = found.record.value
    return ShownDeadLetter(
        **found.letter.model_dump(),
        headers=[(mask(name)[:SHOWN_CHARACTERS], _masked(content)) for name, content in found.record.headers],
        payload=None if value is None else _masked(value),
        payload_bytes=len(value or b""),
    )


async def raw(transaction: Transaction, letter_id: int, actor: str) -> RawDeadLetter:
    """The bytes, for one who must see them; the look is audited. Raises `NotFound`."""
    found = await find(transaction.connection, letter_id)
    transaction.audit(
        "dead_letter.read_raw", actor=actor, subject=found.letter.key or "", details={"dead_letter": letter_id}
    )
    record = found.record
    return RawDeadLetter(
        id=letter_id,
        key=_base64(record.key),
        headers=[(name, base64.b64encode(content).decode()) for name, content in record.headers],
        payload=_base64(record.value),
    )


def _row(row: Any) -> Row:
    values = row._asdict()
    record = Record(
        values["topic"],
        values["partition"],
        values["record_offset"],
        None if values["record_key"] is None else bytes(values["record_key"]),
        headers_in(bytes(values["headers"])),
        None if values["payload"] is None else bytes(values["payload"]),
    )
    try:
        envelope = read_envelope(record.headers)
    except MalformedEnvelope:
        envelope = None
    settled = {name: values[name] for name in ("settled_at", "settled_by", "settled_reason")}
    letter = DeadLetter(
        **{name: values[name] for name in ("id", "topic", "partition", "error", "attempts", "failed_at", "state")},
        **settled,
        offset=record.offset,
        key=None if record.key is None else mask(record.key.decode(errors="replace"))[:128],
        type=envelope.type[:128] if envelope else None,
        publisher=envelope.publisher[:128] if envelope else None,
        version=envelope.sequence if envelope else None,
    )
    return Row(letter, record)


def _masked(content: bytes) -> str:
    return mask(content.decode(errors="replace"))[:SHOWN_CHARACTERS]


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()

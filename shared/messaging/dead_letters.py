"""Dead letters: a record that cannot be applied, kept in a table and on `<topic>.dlq`.

Our own publishers mask what they send, so their records are kept byte for byte. What comes from outside may hold a
phone in any place: it is kept masked, which changes nothing when a branch's command is taken up again, for its texts
would be masked then (decision 0013).
"""

from uuid import UUID

import orjson
from sqlalchemy import text

from shared.contracts.envelope import MalformedEnvelope, read_envelope
from shared.contracts.topics import BRANCH_REPLIES, dead_letter_topic, producers_of
from shared.database.engine import Transaction
from shared.errors import DomainError, Poison
from shared.ids import new_id
from shared.messaging.erasure import scrub_again
from shared.messaging.events import Record
from shared.messaging.inbox import headers_out
from shared.privacy import mask, mask_json

# Well below a broker's usual limit of 1 MiB, which the record itself may just have met.
PUBLISHED_BYTES = 900_000

ATTEMPTS = 2
"""Every record is tried in its batch and then alone."""


def reason_of(error: Exception) -> str:
    """Why a record is dead, without any value of its data, in text that PostgreSQL can store."""
    if isinstance(error, DomainError):
        reason = f"{error.code}: {error.detail}"
    else:
        reason = str(error) if isinstance(error, Poison) else f"unexpected {type(error).__name__}"
    # It may quote a code that came from outside.
    return mask(reason).replace("\x00", "\ufffd")


def bare(record: Record) -> Record:
    """What is left of a record that cannot even be kept: where it stood."""
    return Record(record.topic, record.partition, record.offset, None, (), None)


async def bury(transaction: Transaction, service: str, record: Record, reason: str) -> None:
    """Keep the record in the table, and publish it to the dead letter topic with headers saying from where and why."""
    subject = _subject(record)
    if not _is_ours(record):
        record = _masked(record)
    await transaction.connection.execute(
        text(
            "INSERT INTO dead_letters (topic, partition, record_offset, record_key, headers, payload, error, attempts)"
            " VALUES (:topic, :partition, :offset, :key, :headers, :payload, :error, :attempts)"
        ),
        {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key": record.key,
            "headers": headers_out(record.headers),
            "payload": record.value,
            "error": reason,
            "attempts": ATTEMPTS,
        },
    )
    # It may speak of an erased ticket, whose texts were taken out before this one came.
    await scrub_again(transaction.connection, [subject])
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    transaction.audit("record.refused", actor=service, subject=str(subject), details={**place, "reason": reason})
    why = {
        "dead_topic": record.topic,
        "dead_partition": str(record.partition),
        "dead_offset": str(record.offset),
        "dead_service": service,
        "dead_error": reason,
        "dead_attempts": str(ATTEMPTS),
    }
    payload = record.value or b""
    if sum(len(value) for _, value in record.headers) + len(payload) > PUBLISHED_BYTES:
        why["dead_payload"] = "left out: too large; the whole record is in the table dead_letters"
        payload = b""
    originals = record.headers if sum(len(value) for _, value in record.headers) < PUBLISHED_BYTES else ()
    transaction.publish_raw(
        topic=dead_letter_topic(record.topic),
        key=subject,
        headers=headers_out([*originals, *((name, value.encode()) for name, value in why.items())]),
        payload=payload,
        at=await transaction.now(),
    )


def _is_ours(record: Record) -> bool:
    """Whether one of our services sent it: it names the topic's publisher, and its data is JSON."""
    try:
        envelope = read_envelope(record.headers)
        orjson.loads(record.value or b"{}")
    except (MalformedEnvelope, orjson.JSONDecodeError):
        return False
    return record.topic != BRANCH_REPLIES and envelope.publisher in producers_of(record.topic)


def _masked(record: Record) -> Record:
    return record._replace(
        key=_masked_text(record.key) if record.key is not None else None,
        headers=tuple((mask(name), _masked_text(value)) for name, value in record.headers),
        value=_masked_data(record.value) if record.value is not None else None,
    )


def _masked_data(value: bytes) -> bytes:
    """JSON stays JSON, and stays byte for byte where nothing is to be masked, so that a signature still fits; anything
    else is masked as text."""
    try:
        data = orjson.loads(value)
        shown = mask_json(data)
        return value if shown == data else orjson.dumps(shown)
    except (orjson.JSONDecodeError, RecursionError, TypeError):
        # Not JSON, or nested deeper than can be walked or written (TypeError) again.
        return _masked_text(value)


def _masked_text(value: bytes) -> bytes:
    """Bytes that say nothing stay as they came."""
    text = value.decode("utf-8", "replace")
    shown = mask_json(text)
    return value if shown == text else str(shown).encode()


def _subject(record: Record) -> UUID:
    """The record's own key where it is a UUID, so that a subject's dead letters stay in order; or what its headers say
    that it is about, so that an erasure finds it."""
    for named in (record.key, dict(record.headers).get("ce_subject")):
        try:
            return UUID((named or b"").decode())
        except ValueError:
            continue
    return new_id()

"""Dead letters: a record that cannot be applied, kept with its bytes as they came, in a table and on `<topic>.dlq`."""

from uuid import UUID

from sqlalchemy import text

from shared.contracts.topics import dead_letter_topic
from shared.database.engine import Transaction
from shared.errors import DomainError, Poison
from shared.ids import new_id
from shared.messaging.events import Record
from shared.messaging.inbox import headers_out

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
    return reason.replace("\x00", "\ufffd")


async def bury(transaction: Transaction, service: str, record: Record, reason: str) -> None:
    """Keep the record in the table, and publish it to the dead letter topic with headers saying from where and why."""
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
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    transaction.audit(
        "record.refused", actor=service, subject=str(_subject(record)), details={**place, "reason": reason}
    )
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
        key=_subject(record),
        headers=headers_out([*originals, *((name, value.encode()) for name, value in why.items())]),
        payload=payload,
        at=await transaction.now(),
    )


def _subject(record: Record) -> UUID:
    """The record's own key where it is a UUID, so that a subject's dead letters stay in order."""
    try:
        return UUID((record.key or b"").decode())
    except ValueError:
        return new_id()

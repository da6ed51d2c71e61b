"""A record from the log, decoded: envelope, typed data, and where it stood."""

import re
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import ValidationError

from shared.contracts.envelope import Envelope, MalformedEnvelope, read_envelope
from shared.contracts.registry import COMMANDS, MODELS
from shared.contracts.topics import producers_of
from shared.errors import Poison

SCHEMA_VERSION = 1
ERRORS_SHOWN = 3
_TYPE = re.compile(r"[a-z]{1,32}\.[a-z]{1,32}")
_FIELD = re.compile(r"[a-z][a-z_]{0,31}")


class Record(NamedTuple):
    """A record as the broker gave it. `timestamp_ms` is its sender's or the broker's, as the topic is set."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None
    timestamp_ms: int | None = None

    @classmethod
    def read(cls, raw: Any) -> "Record":
        """A record of aiokafka's. Kafka allows a header without a value; it counts as an empty one."""
        headers = tuple([(name, value or b"") for name, value in raw.headers])
        return cls(raw.topic, raw.partition, raw.offset, raw.key, headers, raw.value, raw.timestamp)


class Event(NamedTuple):
    """A decoded event or command. `data` is the contract's model, or None where the reader has no use for the type."""

    envelope: Envelope
    data: Any
    record: Record

    @property
    def type(self) -> str:
        return self.envelope.type

    @property
    def subject(self) -> UUID:
        return self.envelope.subject

    @property
    def publisher(self) -> str:
        return self.envelope.publisher

    @property
    def version(self) -> int | None:
        return self.envelope.sequence

    @property
    def time(self) -> datetime:
        return self.envelope.time


def _shown(step: str | int) -> str:
    """A step of a place. A name that does not look like a field's is the sender's own, and may be anybody's data."""
    return str(step) if isinstance(step, int) or _FIELD.fullmatch(step) else "*"


def decode(record: Record, wanted: frozenset[str]) -> Event:
    """Decode a record; the data only when its type is in `wanted`.

    Raises `Poison` saying what is wrong, without quoting any value of the data.
    """
    try:
        envelope = read_envelope(record.headers)
    except MalformedEnvelope as error:
        raise Poison(f"not a CloudEvent: {error}") from None
    model = MODELS.get(envelope.type)
    if model is None:
        shown = envelope.type if _TYPE.fullmatch(envelope.type) else "of another form"
        raise Poison(f"unknown event type {shown}")
    if envelope.schema_version != SCHEMA_VERSION:
        raise Poison(f"{envelope.type} version {envelope.schema_version} is not known here")
    if envelope.type in COMMANDS:
        # A command is told apart by its id; a branch's own numbering means nothing here.
        envelope = envelope._replace(sequence=None)
    elif envelope.sequence is None:
        raise Poison(f"{envelope.type} has no ce_sequence")
    if record.topic != model.TOPIC:  # type: ignore[attr-defined]
        raise Poison(f"{envelope.type} does not belong on {record.topic}")
    if envelope.sequence is not None and envelope.publisher not in producers_of(record.topic):
        raise Poison(f"its ce_source does not publish on {record.topic}")
    if record.value is None:
        raise Poison(f"{envelope.type} has no data")
    if b"\\u0000" in record.value:
        raise Poison(f"{envelope.type} holds a NUL character")
    if envelope.type not in wanted:
        return Event(envelope, None, record)
    try:
        return Event(envelope, model.model_validate_json(record.value), record)
    except ValidationError as error:
        places = "; ".join(
            f"/{'/'.join(_shown(step) for step in item['loc'])}: {item['type']}"
            for item in error.errors(include_input=False, include_url=False, include_context=False)[:ERRORS_SHOWN]
        )
        raise Poison(f"{envelope.type} has the wrong form: {places}") from None

"""CloudEvents 1.0 in Kafka binary mode: attributes as `ce_*` headers, the data as a JSON value.

`ce_subject` is what the event is about (a ticket or an incident) and also the record's key; `ce_sequence` is that
subject's version at the publisher, counted 1, 2, 3 … without holes. Commands from branches carry no sequence.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from shared.ids import read_id

SPEC_VERSION = "1.0"
SOURCE_PREFIX = "/gongdan/"

# What is read; other headers are a broker's or a tool's own.
READ = frozenset(
    {
        *("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_sequence", "ce_dataschema"),
        "traceparent",
    }
)

REQUIRED = ("ce_specversion", "ce_type", "ce_time", "ce_id", "ce_source", "ce_subject")

Headers = Sequence[tuple[str, bytes]]


class MalformedEnvelope(ValueError):
    """A record whose headers are not a CloudEvent we can read; the message says which attribute and why."""


class Envelope(NamedTuple):
    """The attributes of one event. `time` is when it happened, timezone-aware."""

    event_id: UUID
    source: str
    type: str
    subject: UUID
    time: datetime
    sequence: int | None = None
    schema_version: int = 1
    traceparent: str | None = None

    @property
    def publisher(self) -> str:
        """The service (or `branch/<id>`) that published the event."""
        return self.source.removeprefix(SOURCE_PREFIX)

    def headers(self) -> list[tuple[str, bytes]]:
        """The record's headers, for the producer."""
        specification, source, kind, schema, content = _same_for_all(self.source, self.type, self.schema_version)
        headers = [
            specification,
            ("ce_id", str(self.event_id).encode()),
            source,
            kind,
            ("ce_subject", str(self.subject).encode()),
            ("ce_time", self.time.isoformat().encode()),
            schema,
            content,
        ]
        if self.sequence is not None:
            headers.append(("ce_sequence", str(self.sequence).encode()))
        if self.traceparent:
            headers.append(("traceparent", self.traceparent.encode()))
        return headers


@lru_cache(maxsize=256)
def _same_for_all(source: str, event_type: str, schema_version: int) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", SPEC_VERSION.encode()),
        ("ce_source", source.encode()),
        ("ce_type", event_type.encode()),
        ("ce_dataschema", schema_urn(event_type, schema_version).encode()),
        ("content-type", b"application/json"),
    )


def schema_urn(event_type: str, version: int) -> str:
    return f"urn:gongdan:{event_type}:{version}"


def read_envelope(headers: Iterable[tuple[str, bytes]]) -> Envelope:
    """Read a record's headers. Raises `MalformedEnvelope`, naming the attribute."""
    values: dict[str, str] = {}
    for name, value in headers:
        if name not in READ:
            continue
        try:
            values[name] = value.decode()
        except (UnicodeDecodeError, AttributeError):
            raise MalformedEnvelope("a header is not UTF-8 text") from None

    if (specification := values.get("ce_specversion")) and specification != SPEC_VERSION:
        raise MalformedEnvelope(f"ce_specversion is not {SPEC_VERSION}")
    for name in REQUIRED:
        if not values.get(name):
            raise MalformedEnvelope(f"header {name} is missing")
    sequence = values.get("ce_sequence")
    try:
        time = datetime.fromisoformat(values["ce_time"])
        if time.tzinfo is not None:
            time.astimezone(UTC)  # overflows at the ends of the calendar
        number = None if sequence is None else int(sequence)
        envelope = Envelope(
            event_id=read_id(values["ce_id"]),
            source=values["ce_source"],
            type=values["ce_type"],
            subject=read_id(values["ce_subject"]),
            time=time,
            sequence=number,
            schema_version=int(values.get("ce_dataschema", "1").rpartition(":")[2]),
            traceparent=values.get("traceparent"),
        )
    except (ValueError, OverflowError):
        raise MalformedEnvelope("ce_id, ce_subject, ce_time, ce_sequence or ce_dataschema has the wrong form") from None
    if time.tzinfo is None:
        raise MalformedEnvelope("ce_time has no time zone")
    if number is not None and not 1 <= number < 2**31:
        raise MalformedEnvelope("ce_sequence is out of range")
    return envelope

"""CloudEvents headers: what is written is read again, and garbage is named, never more."""

from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.asyncapi import examples
from shared.contracts.envelope import Envelope, MalformedEnvelope, read_envelope
from shared.contracts.registry import COMMANDS, MODELS
from shared.contracts.topics import producers_of
from shared.errors import Poison
from shared.messaging.events import Event, Record, decode

NAMES = (
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "ce_sequence",
    "ce_dataschema",
    "content-type",
    "traceparent",
)
ALL_TYPES = frozenset(MODELS)
Headers = list[tuple[str, bytes]]

offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(min_value=datetime(1900, 1, 2), timezones=offsets)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
envelopes = st.builds(
    Envelope,
    event_id=st.uuids(),
    source=texts,
    type=texts,
    subject=st.uuids(),
    time=times,
    sequence=st.none() | st.integers(1, 2**31 - 1),
    schema_version=st.integers(1, 99),
    traceparent=st.none() | texts,
)
garbage = st.lists(
    st.tuples(st.sampled_from(NAMES) | st.text(max_size=16), st.binary(max_size=80) | texts.map(str.encode)),
    max_size=14,
)


def publisher_of(name: str) -> str:
    """A service that publishes events of this type; dispatch for types that do not exist."""
    model = MODELS.get(name)
    return producers_of(model.TOPIC)[0] if model is not None else "dispatch"  # type: ignore[attr-defined]


def valid(name: str = "order.accepted", sequence: int | None = 1) -> Headers:
    return Envelope(
        event_id=UUID(int=1),
        source=f"/gongdan/{publisher_of(name)}",
        type=name,
        subject=UUID(int=2),
        time=datetime.fromisoformat("2026-11-22T09:12:40+08:00"),
        sequence=sequence,
    ).headers()


def read_or_reason(headers: Headers) -> Envelope | str:
    try:
        return read_envelope(headers)
    except MalformedEnvelope as error:
        return str(error)


@given(envelopes)
def test_what_is_written_is_read_again(envelope: Envelope) -> None:
    assert read_envelope(envelope.headers()) == envelope


@pytest.mark.parametrize("form", ["{}", "{{{}}}", "urn:uuid:{}"])
def test_every_form_of_a_uuid_is_read(form: str) -> None:
    """A branch's library may write another one than ours."""
    subject = UUID("0196f2a4-7c1e-7000-8000-0123456789ab")
    for text in (str(subject), str(subject).upper(), subject.hex):
        given = {**dict(valid()), "ce_subject": form.format(text).encode()}
        assert read_envelope(given.items()).subject == subject


def test_the_publisher_is_the_source_without_its_prefix() -> None:
    assert read_envelope(valid()).publisher == "dispatch"


@given(garbage)
def test_garbage_headers_are_malformed_and_nothing_else(headers: Headers) -> None:
    outcome = read_or_reason(headers)
    assert len(outcome) < 300 if isinstance(outcome, str) else outcome.time.tzinfo is not None


@given(st.sampled_from(NAMES), st.binary(max_size=200))
def test_one_broken_header_is_malformed_and_nothing_else(name: str, value: bytes) -> None:
    assert read_or_reason([(key, value if key == name else good) for key, good in valid()])


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ce_specversion", b"0.3", "ce_specversion"),
        ("ce_id", b"7", "wrong form"),
        ("ce_id", b"", "ce_id is missing"),
        ("ce_type", b"", "ce_type is missing"),
        ("ce_type", b"\xff\xfe", "not UTF-8"),
        ("ce_subject", b"T20261122-0000012", "wrong form"),
        ("ce_time", b"2026-11-22T09:12:40", "no time zone"),
        ("ce_time", b"yesterday", "wrong form"),
        ("ce_sequence", b"0", "out of range"),
        ("ce_sequence", b"-3", "out of range"),
        ("ce_sequence", b"99999999999", "out of range"),
        ("ce_sequence", b"9" * 5000, "wrong form"),
        ("ce_sequence", b"one", "wrong form"),
        ("ce_dataschema", b"urn:gongdan:order.accepted:new", "wrong form"),
    ],
)
def test_the_message_names_what_is_wrong(name: str, value: bytes, reason: str) -> None:
    headers = [(key, value if key == name else good) for key, good in valid()]
    with pytest.raises(MalformedEnvelope, match=reason):
        read_envelope(headers)


@pytest.mark.parametrize("name", NAMES[:6])
def test_a_missing_attribute_is_named(name: str) -> None:
    with pytest.raises(MalformedEnvelope, match=name):
        read_envelope([(key, value) for key, value in valid() if key != name])


def record(headers: Headers, value: bytes | None, topic: str = "gongdan.dispatch") -> Record:
    return Record(topic, 0, 7, b"key", tuple(headers), value)


def decode_or_reason(raw: Record) -> Event | str:
    try:
        return decode(raw, ALL_TYPES)
    except Poison as error:
        return str(error)


@given(garbage, st.none() | st.binary(max_size=200))
def test_a_garbage_record_is_poison_and_nothing_else(headers: Headers, value: bytes | None) -> None:
    assert decode_or_reason(record(headers, value))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(MODELS)), st.data())
def test_garbage_data_under_good_headers_is_poison_and_nothing_else(name: str, data: st.DataObject) -> None:
    value = data.draw(st.binary(max_size=120) | json_values.map(lambda value: repr(value).encode()))
    topic: str = MODELS[name].TOPIC  # type: ignore[attr-defined]
    outcome = decode_or_reason(record(valid(name), value, topic))
    assert name in outcome if isinstance(outcome, str) else outcome.type == name


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "has no data"),
        (b"", "wrong form"),
        (b"\xff\xff", "wrong form"),
        (b"[" * 100_000, "wrong form"),
        (b'{"branch": "jinan"}', "/actor: missing"),
        (b'{"branch": 3, "actor": "x"}', "/branch: string_type"),
        (b'{"branch": "\\ud800", "actor": "x"}', "wrong form"),
    ],
)
def test_the_reason_names_the_place_but_not_the_value(value: bytes | None, reason: str) -> None:
    with pytest.raises(Poison, match=reason):
        decode(record(valid(), value), ALL_TYPES)


def test_the_reason_does_not_quote_the_data() -> None:
    with pytest.raises(Poison) as caught:
        decode(record(valid(), b'{"branch": ["13800000000"], "actor": "x"}'), ALL_TYPES)
    assert "13800000000" not in str(caught.value)


def test_an_unknown_type_or_version_or_topic_is_poison() -> None:
    data = b'{"branch": "jinan", "actor": "x"}'
    with pytest.raises(Poison, match="unknown event type"):
        decode(record(valid("order.eaten"), data), ALL_TYPES)
    newer = [(key, b"urn:gongdan:order.accepted:2" if key == "ce_dataschema" else value) for key, value in valid()]
    with pytest.raises(Poison, match="version 2"):
        decode(record(newer, data), ALL_TYPES)
    with pytest.raises(Poison, match=r"does not belong on gongdan\.sla"):
        decode(record(valid(), data, "gongdan.sla"), ALL_TYPES)


def test_an_event_needs_a_sequence_and_a_command_does_not() -> None:
    data = b'{"branch": "jinan", "actor": "x"}'
    with pytest.raises(Poison, match="no ce_sequence"):
        decode(record(valid(sequence=None), data), ALL_TYPES)
    command = decode(record(valid("order.accept", None), data, "gongdan.branch.replies"), ALL_TYPES)
    assert command.version is None


def test_a_field_that_is_not_known_is_ignored_in_an_event_and_refused_in_a_command() -> None:
    data = b'{"branch": "jinan", "actor": "x", "mood": "good"}'
    assert decode(record(valid(), data), ALL_TYPES).data.branch == "jinan"
    with pytest.raises(Poison, match="/mood: extra_forbidden"):
        decode(record(valid("order.accept", None), data, "gongdan.branch.replies"), ALL_TYPES)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_type_is_decoded_from_the_wire(name: str) -> None:
    model = MODELS[name]
    event = model.model_validate(examples()[name])
    headers = valid(name, None if name in COMMANDS else 1)
    topic: str = model.TOPIC  # type: ignore[attr-defined]
    decoded = decode(record(headers, event.model_dump_json(exclude_none=True).encode(), topic), ALL_TYPES)
    assert isinstance(decoded, Event)
    assert decoded.data == event
    assert decode(record(headers, b"anything", topic), frozenset()).data is None

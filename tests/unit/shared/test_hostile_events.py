"""The event decoder takes anything that a broker can hold: an event, or `Poison` in bounded time without a value."""

import time
from datetime import UTC, datetime
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.asyncapi import examples
from shared.contracts.envelope import Envelope
from shared.contracts.registry import MODELS
from shared.contracts.topics import producers_of
from shared.errors import Poison
from shared.ids import new_id
from shared.messaging.events import Event, Record, decode
from tests.support.hostile import CANARY, TEXTS, dose, hostile_json, spoilt

EXAMPLES: dict[str, Any] = examples()
EVERYTHING = frozenset(MODELS)
SECONDS_AT_MOST = 2.0
ATTRIBUTES = (
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "ce_sequence",
    "ce_dataschema",
)

names = st.sampled_from(sorted(EXAMPLES))
header_values = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(lambda text: text.encode(errors="replace")),
    st.sampled_from((*TEXTS, b"9" * 5000, b"-1", b"0", b"1e3", b"0001-01-01T00:00:00+14:00", b"9999-12-31T23:59:59")),
)
header_names = st.one_of(st.sampled_from((*ATTRIBUTES, "traceparent", "content-type")), st.text(max_size=20))


def good_headers(name: str) -> list[tuple[str, bytes]]:
    topic = MODELS[name].TOPIC  # type: ignore[attr-defined]
    publisher = next(iter(producers_of(topic)), "branch/jinan")
    return Envelope(new_id(), f"/gongdan/{publisher}", name, new_id(), datetime.now(UTC), 1).headers()


def read(name: str, headers: list[tuple[str, bytes]], value: bytes | None) -> Event | str:
    """The event, or the reason why there is none; any other exception fails the test."""
    record = Record(MODELS[name].TOPIC, 0, 0, None, tuple(headers), value)  # type: ignore[attr-defined]
    started = time.perf_counter()
    try:
        return decode(record, EVERYTHING)
    except Poison as error:
        return str(error)
    finally:
        assert time.perf_counter() - started < SECONDS_AT_MOST


def test_a_good_example_of_each_type_is_read() -> None:
    for name, document in EXAMPLES.items():
        assert isinstance(read(name, good_headers(name), orjson.dumps(document)), Event), name


@dose(400)
@given(headers=st.lists(st.tuples(header_names, header_values), max_size=14), name=names)
def test_any_headers_make_an_event_or_a_short_reason(headers: list[tuple[str, bytes]], name: str) -> None:
    found = read(name, headers, b"{}")
    assert isinstance(found, Event) or len(found) < 200


@dose(400)
@given(data=st.data(), name=names)
def test_spoilt_headers_of_a_good_event_are_read_or_poison(data: st.DataObject, name: str) -> None:
    headers = good_headers(name)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(headers) - 1))
        attribute, value = headers[place]
        headers[place] = (attribute, data.draw(st.one_of(header_values, spoilt(value))))
    found = read(name, headers, b"{}")
    if isinstance(found, Event):
        # What was read can be stored and reckoned with.
        assert found.time.astimezone(UTC) is not None
    elif dict(headers)["ce_specversion"] == b"1.0":
        assert CANARY not in found


@dose(800)
@given(data=st.data(), name=names)
def test_spoilt_data_is_read_or_poison_and_the_reason_quotes_no_value(data: st.DataObject, name: str) -> None:
    value = data.draw(hostile_json(EXAMPLES[name]))
    found = read(name, good_headers(name), value)
    if isinstance(found, str):
        assert CANARY not in found
        assert len(found) < 1000
    else:
        # What is accepted can be written again, as the outbox and the dead letters do.
        found.data.model_dump_json()


@dose(200)
@given(name=names, value=st.one_of(st.none(), st.binary(max_size=200)))
def test_any_bytes_are_read_or_poison(name: str, value: bytes | None) -> None:
    read(name, good_headers(name), value)

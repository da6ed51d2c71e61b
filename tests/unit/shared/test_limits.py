"""What is counted without parsing: how deep JSON nests, and where lines end."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.http.limits import JSON_DEPTH, too_deep
from shared.http.ndjson import Lines

VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='[]{}"\\ax,:'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='[{"\\'), inner, max_size=4),
    max_leaves=40,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(VALUES, st.integers(0, 40), st.booleans())
def test_depth_is_counted_as_a_parser_would(value: Any, wrapped: int, objects: bool) -> None:
    for _ in range(wrapped):
        value = {"[[": value} if objects else [value]
    assert too_deep(json.dumps(value).encode()) == (depth(value) > JSON_DEPTH)


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b"[" * 100 + b'"',
        b'{"a":"' + b"{" * 100,
        b'["\\"' + b"[" * 100 + b'"]',
        b"[]" * 100,
        b"]" * 100 + b"[" * JSON_DEPTH,
    ],
)
def test_brackets_in_strings_and_side_by_side_are_no_depth(body: bytes) -> None:
    assert not too_deep(body)


def test_a_hostile_body_takes_no_longer_than_its_length() -> None:
    for body in (b'"\\"' * 90_000 + b"[" * 40, b"[" * 40 + b'"' + b"\\" * 250_000, b'{"a":' * 50_000):
        too_deep(body)


def cut(chunks: list[bytes], limit: int = 10) -> list[tuple[int, bytes | None]]:
    lines = Lines(limit)
    return [line for chunk in chunks for line in lines.feed(chunk)] + list(lines.rest())


@given(st.lists(st.binary(max_size=15).map(lambda part: part.replace(b"\r", b"\n")), max_size=8))
def test_lines_are_the_same_however_the_stream_is_cut(chunks: list[bytes]) -> None:
    *ended, rest = b"".join(chunks).split(b"\n")
    whole = ended + ([rest] if rest else [])
    expected = [(number, line if len(line) <= 10 else None) for number, line in enumerate(whole, 1)]
    assert cut(chunks) == expected


def test_a_line_over_the_limit_is_not_kept() -> None:
    lines = Lines(10)
    for _ in range(1000):
        assert list(lines.feed(b"x" * 8)) == []
    assert len(lines._rest) <= 10
    assert list(lines.feed(b"\nab\n")) == [(1, None), (2, b"ab")]

"""Hostile input for tests of every edge: what senders get wrong, break on the way, or send on purpose.

`hostile_json` takes a good document and spoils it: odd numbers, lone surrogates, doubled keys, deep nesting, cut or
flipped bytes. Each text that it plants holds `CANARY`, so that a test can tell whether an error quotes a value.
"""

import copy
import os
from collections.abc import Iterator
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

CANARY = "KANARIENVOGEL"
DEEP = 3000
_HOLE = "@@hole@@"

NUMBERS = (b"NaN", b"-Infinity", b"1e400", b"-0", b"-0.0", b"1e-400", b"9" * 5000, b"0.1e", b"01", b"1E999999999")
TEXTS = (
    rb'"KANARIENVOGEL"',
    rb'"KANARIENVOGEL\u0000"',
    rb'"KANARIENVOGEL\ud800"',
    b'"KANARIENVOGEL\x00"',
    b'"KANARIENVOGEL\xff"',
    b'"' + b"KANARIENVOGEL" * 2000 + b'"',
    b'"0001-01-01T00:00:00+14:00 KANARIENVOGEL"',
    b'"9999-12-31T23:59:59-14:00"',
    b'"0001-01-01T00:00:00+14:00"',
    b'""',
)
SHAPES = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'{"KANARIENVOGEL":1,"KANARIENVOGEL":2}',
    b'[{"KANARIENVOGEL":[1,"KANARIENVOGEL"]}]',
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b"[" * DEEP,
)
TOKENS = st.sampled_from(NUMBERS + TEXTS + SHAPES)
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def dose(examples: int, nightly_times: int = 100) -> settings:
    """The same examples every time in CI; many more, and others, with HYPOTHESIS_PROFILE=nightly."""
    if NIGHTLY:
        return settings(max_examples=examples * nightly_times, deadline=None, print_blob=True)
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def places(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every part of a document, its root first."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, part in items:
        yield from places(part, (*path, step))


def _with(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    owner = changed
    for step in path[:-1]:
        owner = owner[step]
    owner[path[-1]] = value
    return changed


@st.composite
def hostile_json(draw: st.DrawFn, document: Any) -> bytes:
    """The document as JSON with one part replaced, a key added or doubled, and perhaps bytes cut or flipped."""
    path = draw(st.sampled_from(list(places(document))))
    token = draw(TOKENS)
    kind = draw(st.sampled_from(("replace", "extra", "doubled", "bytes only")))
    if kind == "replace":
        text = orjson.dumps(_with(document, path, _HOLE)).replace(orjson.dumps(_HOLE), token)
    elif kind in ("extra", "doubled") and isinstance(document, dict):
        name = CANARY if kind == "extra" else draw(st.sampled_from([*document, CANARY]))
        text = orjson.dumps(document)[:-1] + b"," + orjson.dumps(name) + b":" + token + b"}"
    else:
        text = orjson.dumps(document)
    return draw(spoilt(text)) if kind == "bytes only" or draw(st.integers(0, 4)) == 0 else text


@st.composite
def spoilt(draw: st.DrawFn, text: bytes) -> bytes:
    """A few bytes flipped, a piece cut out, or something put before or behind."""
    how = draw(st.sampled_from(("flip", "cut", "around")))
    if how == "around" or not text:
        return draw(st.sampled_from((b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b" "))) + text + draw(st.binary(max_size=4))
    if how == "cut":
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        return text[:start] + text[end:]
    changed = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(text) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def sample(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """That many examples, for tests that need them at once."""
    found: list[Any] = []

    @dose(count, nightly_times=10)
    @given(strategy)
    def collect(example: Any) -> None:
        found.append(example)

    collect()
    return found

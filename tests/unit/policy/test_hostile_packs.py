"""The pack loader takes any file: a pack, or `PackError` that names file, line and field, in bounded time."""

import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shared.policy import Pack, PackError, load_pack_file
from shared.policy.reading import PACKS
from tests.support.hostile import dose, spoilt
from tests.unit.policy.tickets import PACK

TEXT = (PACKS / PACK / "pack.yaml").read_text(encoding="utf-8")
SECONDS_AT_MOST = 5.0
DEEP = 20_000
NINE = "[*x, *x, *x, *x, *x, *x, *x, *x, *x]"
BOMB = "a: &x0 [lol]\n" + "".join(f"b{n}: &x{n + 1} {NINE.replace('x', f'x{n}')}\n" for n in range(12))

TOKENS = (
    *("~", "true", "-1", "0", "''", "[]", "{}", "[[]]", "{a: {b: [c]}}", "text", "'\x85'", '"\\ud800"', '"\\0"'),
    *("9" * 400, "9" * 5000, "-" + "9" * 30, "9" * 400 + ".0", "0.0", ".inf", "1e400", "17:00", "99:99", "2026-02-30"),
    *("!!int nine", "!!bool perhaps", "!!float x", "!!timestamp x", "!!binary '*'", "!!set {a}", "!!str [a]", "!own x"),
    *("!!python/name:os.system", "&here x", "*nowhere", "&me [*me]", "{<<: {a: b}}", "{a: 1, a: 2}", "{[a]: b}"),
    *(
        "'('",
        "'(?P<a'",
        "'a{99999999999}'",
        "'" + "(" * 3000 + ")" * 3000 + "'",
        "'(?i'",
        "'[z-a]'",
        "'" + "x" * 50_000 + "'",
    ),
    *("../../etc/passwd", "Asia", "/", "{hours: " + "9" * 30 + "}", "{days: -1}", "{working_days: 100000000000}"),
    *("[" * 500 + "]" * 500, "{a: " * 500 + "}" * 500),
)


def composed() -> list[tuple[int, int]]:
    """Where each value of the pack stands in its text."""
    found: list[tuple[int, int]] = []

    def walk(node: Any) -> None:
        found.append((node.start_mark.index, node.end_mark.index))
        parts = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
        if not isinstance(node, yaml.ScalarNode):
            for part in parts:
                walk(part)

    walk(yaml.compose(TEXT, Loader=yaml.SafeLoader))
    return found[1:]


VALUES = composed()


def loaded(content: str | bytes) -> Pack | list[str]:
    """The pack, or the lines of the error; anything else that is raised fails the test."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pack.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
        started = time.perf_counter()
        try:
            return load_pack_file(path)
        except PackError as error:
            return str(error).splitlines()
        finally:
            assert time.perf_counter() - started < SECONDS_AT_MOST


def refused(content: str | bytes) -> list[str]:
    lines = loaded(content)
    assert isinstance(lines, list), "this is a pack"
    assert re.search(r"/pack\.yaml(:\d+)?: ", lines[0]), lines[0][:200]
    assert "Traceback" not in "".join(lines)
    return lines


def test_the_pack_itself_is_read() -> None:
    assert isinstance(loaded(TEXT), Pack)


@dose(150)
@given(place=st.sampled_from(VALUES), token=st.sampled_from(TOKENS))
def test_a_spoilt_value_is_read_or_named(place: tuple[int, int], token: str) -> None:
    text = TEXT[: place[0]] + token + TEXT[place[1] :]
    if not isinstance(loaded(text), Pack):
        refused(text)


@dose(60)
@given(content=spoilt(TEXT.encode()))
def test_a_spoilt_text_is_read_or_named(content: bytes) -> None:
    if not isinstance(loaded(content), Pack):
        refused(content)


@dose(200)
@given(
    content=st.one_of(
        st.binary(max_size=300), st.text(max_size=300), st.text("[]{}:,-?!&*#|>'\"% \n\ta1", max_size=200)
    )
)
def test_any_file_is_refused(content: str | bytes) -> None:
    refused(content)


@pytest.mark.parametrize("token", TOKENS)
def test_each_hostile_value_in_each_kind_of_place(token: str) -> None:
    """A number, a code, a pattern, a limit, a time zone and the name of the pack."""
    for old in (
        "timezone: Asia/Shanghai",
        "limit: {hours: 1}",
        "id: mobile_operator",
        "'骚扰电话|电话骚扰|响一声|恐吓电话'",
    ):
        assert old in TEXT
        key = old.partition(": ")[0] + ": " if ": " in old else ""
        content = TEXT.replace(old, key + token, 1)
        if not isinstance(loaded(content), Pack):
            refused(content)


@pytest.mark.parametrize(
    "content",
    [
        *("[" * DEEP, "[" * DEEP + "]" * DEEP, "{a: " * DEEP, "- " * DEEP, "a: &x [*x]", "&x {a: *x}", BOMB),
        *("? " * DEEP, "!!int " + "9" * 100_000, "a: " + "9" * 100_000, "---\n" * 1000, "%YAML 9.9\n---\na"),
        *("'" * 100_001, "|" + "\n x" * 100_000, '"' + "\\u0000" * 10_000 + '"', "#" * 1_000_000, "", "\ufeff", "\x00"),
        "id: " + "x" * 10_000_000,
    ],
    ids=lambda content: re.sub(r"\W", "_", content[:12]),
)
def test_a_file_made_to_harm_is_refused_in_bounded_time(content: str) -> None:
    refused(content)

"""Reads a pack from YAML. An error names the file, the line and the field, because packs are written by people.

YAML is read as YAML 1.2 would: `on`, `no` and `17:00` are text, only `true` and `false` are booleans. A key that
stands twice in one mapping is an error.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from shared.policy.model import Pack

PACKS = Path(__file__).with_name("packs")
FILE_NAME = "pack.yaml"
MAX_ERRORS = 20
# What a pack may hold. Aliases make many parts of few, so it is the parts that are counted, not the bytes only.
MAX_BYTES = 4 * 1024 * 1024
MAX_PARTS = 100_000
MAX_DEPTH = 40

Keys = tuple[str | int, ...]


class PackError(ValueError):
    """A pack cannot be used. The message is for the person who writes it; each line is `file:line: field: what`."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Resolves scalars as YAML 1.2's core schema does."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?[0-9]+\.[0-9]+", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))


@cache
def load_pack(name: str) -> Pack:
    """The pack of that name, read once. Raises: `PackError`."""
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise PackError(f"{name!r} is not a pack name: small letters, digits and _ only")
    pack = load_pack_file(PACKS / name / FILE_NAME)
    if pack.id != name:
        raise PackError(f"{name}/{FILE_NAME}: id: the pack calls itself {pack.id!r}, its folder is {name!r}")
    return pack


def load_pack_file(path: Path) -> Pack:
    """The pack in one file. Raises: `PackError`."""
    shown = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PackError(f"{shown}: larger than {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"{shown}: cannot be read: {error.__class__.__name__}") from None
    data, lines = parse(text, shown)
    try:
        return Pack.model_validate(data)
    except ValidationError as error:
        problems = [_problem(shown, lines, item) for item in error.errors()[:MAX_ERRORS]]
        raise PackError("\n".join(problems)) from None


def parse(text: str, shown: str) -> tuple[Any, dict[Keys, int]]:
    """The data of a YAML text, and the line (from 1) of every key and item. Raises: `PackError`."""
    lines: dict[Keys, int] = {}
    try:
        _check_depth(text, shown)
        loader = _Loader(text)
        try:
            return _build(loader, loader.get_single_node(), (), lines, shown), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise PackError(f"{shown}:{mark.line + 1 if mark else 1}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise PackError(f"{shown}:1: not YAML: {error}") from None


def _check_depth(text: str, shown: str) -> None:
    """Before the tree is made, which takes a call a level."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            mark = event.start_mark
            raise PackError(f"{shown}:{mark.line + 1 if mark else 1}: nested deeper than {MAX_DEPTH} levels")


def _build(loader: Any, node: Any, path: Keys, lines: dict[Keys, int], shown: str) -> Any:
    if node is None:
        return None
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(path) > MAX_DEPTH or len(lines) > MAX_PARTS:
        raise PackError(f"{shown}:{line}: with its aliases it is too deep or has too many parts")
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, index), lines, shown) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node, f"{shown}:{line}: {_dotted(path)}")
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise PackError(f"{shown}:{line}: a key must be text")
        if key in result:
            raise PackError(f"{shown}:{line}: {_dotted((*path, key))}: this key stands twice")
        lines[(*path, key)] = line
        result[key] = _build(loader, value_node, (*path, key), lines, shown)
    return result


def _scalar(loader: Any, node: Any, place: str) -> Any:
    if node.tag not in _TAGS:
        raise PackError(f"{place}: {node.tag} is not a type of a pack")
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, KeyError):
        raise PackError(f"{place}: not of the type that its tag or its form says") from None


def _problem(shown: str, lines: dict[Keys, int], item: Any) -> str:
    path: Keys = (*item["loc"], *item.get("ctx", {}).get("path", ()))
    return f"{shown}:{_line_of(path, lines)}: {_dotted(path)}: {item['msg']}"


def _line_of(path: Keys, lines: dict[Keys, int]) -> int:
    """The line of the nearest part that is written down; a missing field is reported where its owner stands."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _dotted(path: Keys) -> str:
    return ".".join(str(part) for part in path) or "(the whole file)"

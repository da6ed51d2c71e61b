"""The frozen schemas: what readers rely on does not change under them."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.compatibility import breaking_changes, current_schemas
from tests.contract.freeze import FROZEN

Change = Callable[[dict[str, Any]], Any]

frozen: dict[str, Any] = json.loads(FROZEN.read_text(encoding="utf-8"))


def test_nothing_that_readers_rely_on_changed() -> None:
    assert breaking_changes(frozen, current_schemas()) == []


def test_the_frozen_schemas_are_the_current_ones() -> None:
    assert current_schemas() == frozen, "compatible change: renew with `python -m tests.contract.freeze`"


def changed(change: Change) -> list[str]:
    schemas = copy.deepcopy(frozen)
    change(schemas)
    return breaking_changes(frozen, schemas)


BREAKING: dict[str, tuple[Change, str]] = {
    "a type is gone": (lambda s: s.pop("order.accepted"), "order.accepted: the type is gone"),
    "a field is gone": (
        lambda s: s["order.accepted"]["properties"].pop("actor"),
        "order.accepted.actor: the field is gone",
    ),
    "a field deep inside is gone": (
        lambda s: s["ticket.registered"]["$defs"]["Place"]["properties"].pop("district"),
        "ticket.registered.ticket.place.district: the field is gone",
    ),
    "another type": (
        lambda s: s["order.accepted"]["properties"].update(actor={"type": "integer"}),
        "order.accepted.actor: was string, is integer",
    ),
    "no longer nullable": (
        lambda s: s["order.progressed"]["properties"].update(contacted_at={"type": "string", "format": "date-time"}),
        "order.progressed.contacted_at: was null, is string",
    ),
    "a new required field": (
        lambda s: s["order.accepted"].update(
            properties={**s["order.accepted"]["properties"], "desk": {"type": "string"}},
            required=[*s["order.accepted"]["required"], "desk"],
        ),
        "order.accepted.desk: required now",
    ),
    "a value is refused": (
        lambda s: s["callback.recorded"]["properties"]["outcome"]["enum"].remove("not_called"),
        "callback.recorded.outcome: no longer accepted: ['not_called']",
    ),
    "other values are refused": (
        lambda s: s["order.accepted"]["properties"]["branch"].update(enum=["jinan"]),
        "order.accepted.branch: no longer accepted: every other value",
    ),
    "a shorter text": (
        lambda s: s["order.accept"]["properties"]["branch"].update(maxLength=8),
        "order.accept.branch: maxLength is tighter",
    ),
    "a longer minimum": (
        lambda s: s["order.progress"]["properties"]["note"].update(minLength=20),
        "order.progress.note: minLength is tighter",
    ),
    "unknown fields refused": (
        lambda s: s["order.accepted"].update(additionalProperties=False),
        "order.accepted: unknown fields are refused now",
    ),
}


@pytest.mark.parametrize("case", BREAKING)
def test_a_breaking_change_is_found(case: str) -> None:
    change, expected = BREAKING[case]
    assert changed(change) == [expected]


COMPATIBLE: dict[str, Change] = {
    "a new type": lambda s: s.update({"order.seen": {"type": "object", "properties": {}}}),
    "a new optional field": lambda s: s["order.accepted"]["properties"].update(desk={"type": "string"}),
    "a longer text": lambda s: s["order.accept"]["properties"]["branch"].update(maxLength=128),
    "a new value": lambda s: s["callback.recorded"]["properties"]["outcome"]["enum"].append("refused"),
    "optional now": lambda s: s["order.accepted"]["required"].remove("actor"),
    "any number": lambda s: s["order.dispatched"]["properties"].update(round={"type": "number"}),
}


@pytest.mark.parametrize("case", COMPATIBLE)
def test_a_compatible_change_is_let_through(case: str) -> None:
    assert changed(COMPATIBLE[case]) == []

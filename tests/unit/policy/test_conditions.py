"""The `when` language: every matcher, what "missing" means, and errors that lead to the culprit."""

from collections import defaultdict
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from shared.policy.conditions import When


def holds(when: dict[str, Any], **facts: object) -> bool:
    known: defaultdict[str, object] = defaultdict(lambda: None, {name: value for name, value in facts.items()})
    return When(when)(known)


@pytest.mark.parametrize(
    ("when", "facts", "expected"),
    [
        ({"channel": "app"}, {"channel": "app"}, True),
        ({"channel": "app"}, {"channel": "fax"}, False),
        ({"channel": ["app", "fax"]}, {"channel": "fax"}, True),
        ({"channel": ["app", "fax"]}, {}, False),
        ({"category": {"under": "a.b"}}, {"category": "a.b"}, True),
        ({"category": {"under": "a.b"}}, {"category": "a.b.c"}, True),
        ({"category": {"under": "a.b"}}, {"category": "a.bc"}, False),
        ({"category": {"under": ["x", "a"]}}, {"category": "a.b"}, True),
        ({"category": {"under": "a"}}, {}, False),
        ({"brand": {"missing": True}}, {}, True),
        ({"brand": {"missing": True}}, {"brand": ""}, True),
        ({"brand": {"present": True}}, {"brand": "gotone"}, True),
        ({"elements_missing": {"present": True}}, {"elements_missing": ()}, False),
        ({"elements_missing": {"present": False}}, {"elements_missing": ("since",)}, False),
        ({"flags": {"contains": "major"}}, {"flags": ("major", "x")}, True),
        ({"flags": {"contains": ["a", "b"]}}, {"flags": ("b",)}, True),
        ({"flags": {"contains": "major"}}, {"flags": "major"}, False),
        ({"attempts": {"gte": 3}}, {"attempts": 3}, True),
        ({"attempts": {"gt": 3}}, {"attempts": 3}, False),
        ({"attempts": {"lt": 3}}, {"attempts": 3}, False),
        ({"attempts": {"lte": 3}}, {"attempts": 3}, True),
        ({"attempts": {"gt": 1, "lt": 3}}, {"attempts": 2}, True),
        ({"attempts": {"gt": 1}}, {}, False),
        ({"content": {"matches": "骚扰|恐吓"}}, {"content": "一直骚扰客户"}, True),
        ({"content": {"matches": "骚扰"}}, {}, False),
        ({"channel": {"not": "app"}}, {"channel": "fax"}, True),
        ({"channel": {"not": "app"}}, {}, True),
        ({"category": {"not": {"under": "a"}}}, {"category": "a.b"}, False),
        ({"upstream": True}, {"upstream": True}, True),
        ({"upstream": False}, {"upstream": False}, True),
        ({"upstream": False}, {}, False),
        ({"round": 1}, {"round": 1}, True),
        ({"any": [{"channel": "app"}, {"kind": "inquiry"}]}, {"kind": "inquiry"}, True),
        ({"any": [{"channel": "app"}, {"kind": "inquiry"}]}, {"kind": "x"}, False),
        ({"all": [{"channel": "app"}, {"kind": "inquiry"}]}, {"channel": "app"}, False),
        ({"not": {"channel": "app"}, "kind": "x"}, {"kind": "x"}, True),
        ({}, {}, True),
    ],
)
def test_condition(when: dict[str, Any], facts: dict[str, object], expected: bool) -> None:
    assert holds(when, **facts) is expected


@pytest.mark.parametrize(
    ("when", "path", "message"),
    [
        ({"chanel": "app"}, ["chanel"], "unknown fact 'chanel'"),
        ({"any": [{"channel": "app"}, {"not": {"kin": "x"}}]}, ["any", 1, "not", "kin"], "unknown fact 'kin'"),
        ({"channel": {"is": "app"}}, ["channel", "is"], "unknown matcher 'is'"),
        ({"content": {"matches": "("}}, ["content", "matches"], "not a regular expression"),
        ({"channel": []}, ["channel"], "empty list"),
        ({"channel": {}}, ["channel"], "empty matcher"),
        ({"channel": None}, ["channel"], "missing: true"),
        ({"attempts": {"gt": "three"}}, ["attempts", "gt"], "takes a number"),
        ({"brand": {"missing": False}}, ["brand", "missing"], "missing takes true"),
        ({"any": {}}, ["any"], "list of conditions"),
        ({"not": ["a"]}, ["not"], "mapping"),
    ],
)
def test_a_mistake_names_its_place(when: dict[str, Any], path: list[str | int], message: str) -> None:
    with pytest.raises(PydanticCustomError, match=message) as caught:
        When(when)
    assert caught.value.context is not None
    assert caught.value.context["path"] == path

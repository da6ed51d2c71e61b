"""The frozen OpenAPI documents: what callers rely on does not change under them."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.architecture.services import SERVICES
from tests.contract.documents import breaking_routes, current_documents
from tests.contract.freeze import frozen_documents

Change = Callable[[dict[str, Any]], Any]

frozen = frozen_documents()
SLA = frozen["sla"]
DAY = "/v1/calendar/{day}"


def at(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    operation: dict[str, Any] = document["paths"][path][method]
    return operation


def model(document: dict[str, Any], name: str) -> dict[str, Any]:
    schema: dict[str, Any] = document["components"]["schemas"][name]
    return schema


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_that_callers_rely_on_changed(service: str) -> None:
    current = json.loads(json.dumps(current_documents()[service]))
    assert breaking_routes(frozen[service], current) == []
    assert current == frozen[service], "compatible change: renew with `python -m tests.contract.freeze`"


BREAKING: dict[str, tuple[Change, str]] = {
    "a route is gone": (lambda d: d["paths"].pop(DAY), f"put {DAY}: the route is gone"),
    "a parameter is gone": (
        lambda d: at(d, "/v1/due", "get")["parameters"].pop(0),
        "get /v1/due ?within_minutes: the parameter is gone",
    ),
    "a parameter is required": (
        lambda d: at(d, "/v1/due", "get")["parameters"][0].update(required=True),
        "get /v1/due ?within_minutes: required now",
    ),
    "a parameter is bounded": (
        lambda d: at(d, "/v1/due", "get")["parameters"][0]["schema"].update(maximum=60),
        "get /v1/due ?within_minutes: maximum is tighter",
    ),
    "a request needs more": (
        lambda d: model(d, "SetDay").update(
            properties={**model(d, "SetDay")["properties"], "why": {"type": "string"}},
            required=["working", "source", "why"],
        ),
        f"put {DAY}.why: required now",
    ),
    "an answer lacks a field": (
        lambda d: (model(d, "DayView")["properties"].pop("source"), model(d, "DayView")["required"].remove("source")),
        f"put {DAY} 200.source: required now",
    ),
    "an answer has another type": (
        lambda d: model(d, "DayView")["properties"].update(working={"type": "string"}),
        f"put {DAY} 200.working: was string, is boolean",
    ),
    "a success is gone": (
        lambda d: at(d, DAY, "put").update(responses={"204": {}}),
        f"put {DAY} 200: no longer answered",
    ),
    "another media type": (
        lambda d: at(d, DAY, "put")["requestBody"].update(content={"text/plain": {}}),
        f"put {DAY}: application/json is no longer taken",
    ),
}


@pytest.mark.parametrize("case", BREAKING)
def test_a_breaking_change_is_found(case: str) -> None:
    change, expected = BREAKING[case]
    document = copy.deepcopy(SLA)
    change(document)
    assert expected in breaking_routes(SLA, document)


COMPATIBLE: dict[str, Change] = {
    "a new route": lambda d: d["paths"].update({"/v1/new": {"get": {"responses": {"200": {}}}}}),
    "a new optional parameter": lambda d: at(d, "/v1/due", "get")["parameters"].append(
        {"in": "query", "name": "unit", "schema": {"type": "string"}}
    ),
    "a new optional field": lambda d: model(d, "SetDay")["properties"].update(why={"type": "string"}),
    "one more field in an answer": lambda d: model(d, "DayView").update(
        properties={**model(d, "DayView")["properties"], "why": {"type": "string"}},
        required=[*model(d, "DayView")["required"], "why"],
    ),
    "one more refusal": lambda d: at(d, DAY, "put")["responses"].update({"451": {}}),
}


@pytest.mark.parametrize("case", COMPATIBLE)
def test_a_compatible_change_is_let_through(case: str) -> None:
    document = copy.deepcopy(SLA)
    COMPATIBLE[case](document)
    assert breaking_routes(SLA, document) == []

"""What the OpenAPI document says of answers that no route names: errors as problems, and what every body may meet.

FastAPI writes a document from the routes; here it is made to say what the edge in front of them really answers.
Called by the composition once, for every service.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

from fastapi import FastAPI

from shared.http.problems import MEDIA_TYPE, TITLES

Node = dict[str, Any]

PROBLEM = "#/components/schemas/Problem"
# A request with a body may meet these besides: not JSON, too slow, and larger than the limit.
WITH_BODY = ("400", "408", "413")
# Headers that go with a status: RFC 9110, sections 11.6.1 and 10.2.3.
HEADERS: dict[str, dict[str, Node]] = {
    "401": {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    "429": {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 0}}},
    "503": {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 0}}},
}


def describe(app: FastAPI) -> None:
    """From now on the app's document is the corrected one. Routes may still be added until it is first asked for."""
    written: Callable[[], Node] = app.openapi

    def openapi() -> Node:
        if app.openapi_schema is None:
            document = written()
            for operation in _operations(document):
                _correct(operation)
        return cast(Node, app.openapi_schema)

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(document: Node) -> Iterator[Node]:
    for path in document["paths"].values():
        yield from path.values()


def _correct(operation: Node) -> None:
    answers: dict[str, Node] = operation["responses"]
    if "security" not in operation:
        for status in ("401", "403"):
            answers.pop(status, None)
    else:
        answers.setdefault("429", _problem("429"))
    if "requestBody" in operation:
        for status in WITH_BODY:
            answers.setdefault(status, _problem(status))
    elif "parameters" not in operation:
        answers.pop("422", None)
    for status, answer in answers.items():
        if status.startswith("2") or not _is_problem(answer):
            continue
        answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": PROBLEM}}}
        if status in HEADERS:
            answer["headers"] = HEADERS[status] | answer.get("headers", {})


def _problem(status: str) -> Node:
    return {"description": TITLES[int(status)], "content": {MEDIA_TYPE: {}}}


def _is_problem(answer: Node) -> bool:
    """Whether the route said so by the model, or named nothing but the media type."""
    content = answer.get("content", {})
    given = content.get("application/json", {}).get("schema", {}).get("$ref")
    return given == PROBLEM or (MEDIA_TYPE in content and given is None)

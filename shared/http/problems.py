"""Errors as problem details (RFC 9457): a stable `code`, and a JSON pointer to each field at fault."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import asyncpg
import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from shared.errors import DomainError, ErrorKind, Transient
from shared.privacy import mask
from shared.telemetry.tracing import trace_id

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2

STATUS = {ErrorKind.not_found: 404, ErrorKind.conflict: 409, ErrorKind.invalid: 422, ErrorKind.forbidden: 403}
TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported media type",
    422: "Invalid",
    429: "Too many requests",
    431: "Header fields too large",
    500: "Internal error",
    503: "Not available for now",
}

_NAME = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")
# SQLSTATE: character not in repertoire, untranslatable character.
NOT_STORABLE = ("22021", "22P05")
HTTP_CODES = {
    400: "invalid_json",
    401: "not_authenticated",
    404: "route_not_found",
    405: "method_not_allowed",
}


class FieldError(BaseModel):
    """One field at fault. `expected` says what would have been right."""

    pointer: str
    code: str
    detail: str
    expected: list[str] | None = None


class Problem(BaseModel):
    """The body of every answer that is an error."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldError] = []
    trace_id: str | None = None


class Refused(HTTPException):
    """A request refused by how it was sent. An `HTTPException`, so that FastAPI passes it on while it reads a body."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.code = code


class InvalidFields(DomainError):
    """Several fields are wrong at once."""

    kind = ErrorKind.invalid

    def __init__(self, errors: Sequence[FieldError], code: str = "invalid_request") -> None:
        super().__init__(code, "; ".join(f"{error.pointer}: {error.detail}" for error in errors[:3]))
        self.errors = list(errors)


def problem(
    status: int, code: str, detail: str, errors: Sequence[FieldError] = (), headers: dict[str, str] | None = None
) -> Response:
    body = Problem(
        title=TITLES.get(status, "Error"),
        status=status,
        code=code,
        detail=mask(detail),
        errors=masked(errors),
        trace_id=trace_id(),
    )
    return Response(
        orjson.dumps(body.model_dump(exclude_none=True)), status_code=status, media_type=MEDIA_TYPE, headers=headers
    )


def masked(errors: Iterable[FieldError]) -> list[FieldError]:
    """As they may be shown: a detail, and even the name of a field, may quote what was given."""
    return [error.model_copy(update={"pointer": mask(error.pointer), "detail": mask(error.detail)}) for error in errors]


def unavailable(detail: str, code: str = "unavailable") -> Response:
    return problem(503, code, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def pointer(location: Sequence[Any], body: Any = None) -> str:
    """A JSON pointer (RFC 6901) from a validation error's location; query and header fields keep their part's name.

    Where a field may be of several types, the location also names the type that was tried; such a step leads nowhere in
    the body and is left out. The last step may be a member that is missing. A name that no field of ours could have is
    shown as `*`: it may be anybody's.
    """
    steps = list(location)
    if steps and steps[0] == "body":
        steps = list(_within(body, steps[1:]))
    return "".join(f"/{step}" if _NAME.fullmatch(str(step)) else "/*" for step in steps) or "/"


def _within(node: Any, steps: Sequence[Any]) -> Iterator[Any]:
    for step in steps:
        if isinstance(node, dict):
            yield step
            node = node.get(step)
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            yield step
            node = node[step]


def fields_of(error: DomainError) -> list[FieldError]:
    """The fields that a refusal by the rules names."""
    if isinstance(error, InvalidFields):
        return error.errors
    if error.pointer is not None:
        return [FieldError(pointer=error.pointer, code=error.code, detail=error.detail)]
    return []


def invalid(errors: Sequence[Any], body: Any) -> tuple[int, str, str, list[FieldError]]:
    """Status, code, detail and fields for what Pydantic found wrong with a body."""
    found: dict[str, FieldError] = {}
    for item in errors:
        where = pointer(item["loc"], body)
        found.setdefault(where, FieldError(pointer=where, code=item["type"], detail=item["msg"]))
    fields = list(found.values())
    if any(field.code == "json_invalid" for field in fields):
        return 400, "invalid_json", "the body is not valid JSON in UTF-8", fields
    return 422, "invalid_request", "; ".join(f"{f.pointer}: {f.detail}" for f in fields[:3]), fields


def methods_at(app: FastAPI, path: str) -> list[str]:
    """Every method that some route answers at this path (RFC 9110, section 10.2.1). One route knows its own only."""
    return sorted(
        {
            method
            for route in iter_route_contexts(app.routes)
            if route.path and route.methods and compile_path(route.path)[0].match(path)
            for method in route.methods
        }
    )


def busy(detail: str, code: str) -> Refused:
    """As an error what `unavailable` is as an answer."""
    return Refused(503, code, detail, {"Retry-After": str(RETRY_AFTER_SECONDS)})


def rendered(error: Exception) -> Response:
    """The problem that tells of an error. What nobody expected is logged, and the answer says nothing of it."""
    if isinstance(error, DomainError):
        return problem(STATUS[error.kind], error.code, error.detail, fields_of(error))
    if isinstance(error, HTTPException):
        code = error.code if isinstance(error, Refused) else HTTP_CODES.get(error.status_code, "http_error")
        return problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))
    if isinstance(error, Transient):
        log.warning("answered 503", extra={"error": str(error)})
        return unavailable(
            "a part of the system is away for now; try again, with the same Idempotency-Key if you gave one"
        )
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in NOT_STORABLE:
        return problem(422, "character_not_storable", "a text holds a NUL character, which cannot be stored")
    log.error("database error" if isinstance(error, asyncpg.PostgresError) else "unexpected error", exc_info=error)
    return problem(500, "internal_error", "this is our fault; the trace id finds it in the logs")


# Whatever else an app raises is Starlette's to answer, by the handler of `Exception`, and to pass on.
EXPECTED = (DomainError, HTTPException, Transient, asyncpg.PostgresError)


def install(app: FastAPI) -> None:
    """Render every error of an app as a problem."""

    async def on_error(_: Request, error: Exception) -> Response:
        return rendered(error)

    for kind in (*EXPECTED, Exception):
        app.add_exception_handler(kind, on_error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> Response:
        return problem(*invalid(error.errors(), error.body))

    @app.exception_handler(405)
    async def on_other_method(request: Request, error: HTTPException) -> Response:
        error.headers = {**(error.headers or {}), "Allow": ", ".join(methods_at(app, request.url.path))}
        return rendered(error)

"""Import: many complaints in one request, a line each, answered line by line and in order.

Lines go through the same registration as single complaints, a group in one transaction; the next lines are read when
the group is stored, so that a client is held to the pace of the database.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass

import orjson
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from services.intake.schemas import RegisterTicket
from services.intake.usecases.desk import Desk, check_channel
from services.intake.usecases.register import CREATED, Registration, check_known
from shared.database.group_commit import MAX_BATCH, GroupCommit
from shared.errors import DomainError, Transient
from shared.http.auth import Principal
from shared.http.idempotency import request_hash
from shared.http.limits import BODY_LIMIT_BYTES, JSON_DEPTH, too_deep
from shared.http.ndjson import Lines
from shared.http.problems import STATUS, FieldError, Refused, fields_of, invalid, masked
from shared.privacy import mask
from shared.telemetry import metrics

log = logging.getLogger(__name__)

LINES_LIMIT = 200_000
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
STOPPED = "; nothing after this line was read: send the rest again, from the first line with this status on"


@dataclass(frozen=True, slots=True)
class Import:
    """One import: who sends it, and the `Idempotency-Key` of the whole, which stands for `<key>/<line>` of each."""

    desk: Desk
    registrations: GroupCommit[Registration, bytes]
    principal: Principal
    key: str | None
    overloaded: Callable[[], bool]

    async def answers(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The answers to the lines of a stream, as NDJSON. Ends early, saying why, when no more can be taken."""
        lines = Lines()
        try:
            async for chunk in chunks:
                for group in _groups(lines.feed(chunk)):
                    answer, stopped = await self._answer(group)
                    yield answer
                    if stopped:
                        return
                if lines.number >= LINES_LIMIT:
                    yield _refusal(lines.number + 1, 413, "too_many_lines", f"at most {LINES_LIMIT} lines{STOPPED}")
                    return
        except ClientDisconnect:
            return
        except Refused as error:
            yield _refusal(lines.number + 1, error.status_code, error.code, f"{error.detail}{STOPPED}")
            return
        for group in _groups(lines.rest()):
            yield (await self._answer(group))[0]

    async def _answer(self, group: list[tuple[int, bytes | None]]) -> tuple[bytes, bool]:
        """The answers to a group, and whether this is the end because no more can be taken now."""
        answers: dict[int, bytes] = {}
        taken: dict[int, Registration] = {}
        overloaded = self.overloaded()
        for number, line in group:
            if overloaded:
                answers[number] = _refusal(number, 503, "backlog_full", f"too many events wait for the broker{STOPPED}")
                continue
            try:
                taken[number] = self._registration(number, line)
            except ValidationError as error:
                answers[number] = _refusal(number, *_invalid(error, line or b""))
            except (Refused, DomainError) as error:
                answers[number] = _failure(number, error)
        stopped = overloaded
        results = await self.registrations.submit_all(list(taken.values()))
        for number, result in zip(taken, results, strict=True):
            stopped = stopped or isinstance(result, Transient)
            answers[number] = _success(number, result) if isinstance(result, bytes) else _failure(number, result)
        return b"".join(answers[number] for number, _ in group), stopped

    def _registration(self, number: int, line: bytes | None) -> Registration:
        """Raises `Refused`, `DomainError` or `ValidationError` for a line that cannot be taken."""
        if line is None:
            raise Refused(413, "line_too_long", f"a line may have at most {BODY_LIMIT_BYTES} bytes")
        if too_deep(line):
            raise Refused(400, "json_too_deep", f"JSON may nest at most {JSON_DEPTH} levels deep")
        request = RegisterTicket.model_validate_json(line)
        check_channel(self.principal, request.channel)
        check_known(self.desk, request)
        key = None if self.key is None else f"{self.key}/{number}"
        return Registration(request, self.principal, key, request_hash(line))


def _groups(lines: Iterable[tuple[int, bytes | None]]) -> Iterator[list[tuple[int, bytes | None]]]:
    """Lines without blank ones, at most as many at a time as share a transaction."""
    group: list[tuple[int, bytes | None]] = []
    for number, line in lines:
        if line is not None:
            line = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).strip()
        if line != b"":
            group.append((number, line))
        if len(group) == MAX_BATCH:
            yield group
            group = []
    if group:
        yield group


def _success(number: int, answer: bytes) -> bytes:
    metrics.tickets_accepted.inc()
    first = orjson.loads(answer)
    return orjson.dumps(
        {"line": number, "status": CREATED, "ticket_id": first["ticket_id"], "ticket_no": first["ticket_no"]},
        option=orjson.OPT_APPEND_NEWLINE,
    )


def _invalid(error: ValidationError, line: bytes) -> tuple[int, str, str, list[FieldError]]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    broken = any(item["type"] == "json_invalid" for item in found)
    body = None if broken else from_json(line)
    return invalid([{**item, "loc": ("body", *item["loc"])} for item in found], body)


def _failure(number: int, error: BaseException) -> bytes:
    if isinstance(error, Refused):
        return _refusal(number, error.status_code, error.code, str(error.detail))
    if isinstance(error, DomainError):
        return _refusal(number, STATUS[error.kind], error.code, error.detail, fields_of(error))
    if isinstance(error, Transient):
        return _refusal(number, 503, "unavailable", f"a part of the system is away for now{STOPPED}")
    log.error("a line could not be registered", exc_info=error)
    return _refusal(number, 500, "internal_error", "this is our fault; the other lines went on")


def _refusal(number: int, status: int, code: str, detail: str, errors: Iterable[FieldError] = ()) -> bytes:
    fields = [error.model_dump(exclude_none=True) for error in masked(errors)]
    return orjson.dumps(
        {"line": number, "status": status, "code": code, "detail": mask(detail), "errors": fields},
        option=orjson.OPT_APPEND_NEWLINE,
    )

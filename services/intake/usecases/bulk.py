"""Import: many complaints in one request, a line each, answered line by line and in order.

Lines go through the same registration as single complaints, a group in one transaction; the next lines are read when
the group is stored, so that a client is held to the pace of the database.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import orjson
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from services.intake.schemas import RegisterTicket
from services.intake.usecases.desk import Desk
from services.intake.usecases.register import CREATED, Registration, registration_of
from shared.database.group_commit import MAX_BATCH, GroupCommit
from shared.errors import DomainError, Transient
from shared.http.auth import Principal
from shared.http.limits import BODY_LIMIT_BYTES, JSON_DEPTH, too_deep
from shared.http.ndjson import Lines
from shared.http.problems import STATUS, FieldError, Refused, fields_of, invalid, masked
from shared.privacy import mask
from shared.telemetry import metrics

log = logging.getLogger(__name__)

LINES_LIMIT = 200_000
# Checked lines that wait while those before them are stored: at most so many groups, each of one transaction.
GROUPS_AHEAD = 3
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
STOPPED = "; nothing after this line was read: send the rest again, from the first line with this status on"

_Group: TypeAlias = dict[int, Registration | bytes]
"""Lines by their number: what goes to the commit, or the answer to what was refused."""


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
        read: asyncio.Queue[_Group | None] = asyncio.Queue(GROUPS_AHEAD)
        reading = asyncio.create_task(self._read(chunks, read))
        try:
            while (group := await read.get()) is not None:
                answer, stopped = await self._answer(group)
                yield answer
                if stopped:
                    return
            await reading
        finally:
            reading.cancel()

    async def _read(self, chunks: AsyncIterator[bytes], read: asyncio.Queue[_Group | None]) -> None:
        """Read and check lines while those before them are being stored; None is the end."""
        lines = Lines()
        try:
            await self._read_lines(lines, chunks, read)
        except ClientDisconnect:
            pass
        except Refused as error:
            refusal = _refusal(lines.number + 1, error.status_code, error.code, f"{error.detail}{STOPPED}")
            await read.put({lines.number + 1: refusal})
        except Exception:
            await read.put(None)
            raise
        await read.put(None)

    async def _read_lines(self, lines: Lines, chunks: AsyncIterator[bytes], read: asyncio.Queue[_Group | None]) -> None:
        async for chunk in chunks:
            for numbered in _groups(lines.feed(chunk)):
                group, overloaded = self._checked(numbered)
                await read.put(group)
                if overloaded:
                    return
            if lines.number >= LINES_LIMIT:
                raise Refused(413, "too_many_lines", f"at most {LINES_LIMIT} lines")
        for numbered in _groups(lines.rest()):
            await read.put(self._checked(numbered)[0])

    def _checked(self, numbered: list[tuple[int, bytes | None]]) -> tuple[_Group, bool]:
        """What becomes of these lines, and whether this is the end because too many events wait for the broker."""
        group: _Group = {}
        overloaded = self.overloaded()
        for number, line in numbered:
            if overloaded:
                group[number] = _refusal(number, 503, "backlog_full", f"too many events wait for the broker{STOPPED}")
                continue
            try:
                group[number] = self._registration(number, line)
            except ValidationError as error:
                group[number] = _refusal(number, *_invalid(error, line or b""))
            except (Refused, DomainError) as error:
                group[number] = _failure(number, error)
        return group, overloaded

    async def _answer(self, group: _Group) -> tuple[bytes, bool]:
        """The answers to a group, and whether this is the end because the database is away."""
        taken = [each for each in group.values() if isinstance(each, Registration)]
        results = iter(await self.registrations.submit_all(taken) if taken else ())
        answers: list[bytes] = []
        stopped, accepted = False, 0
        for number, each in group.items():
            if isinstance(each, bytes):
                answers.append(each)
                continue
            result = next(results)
            stopped = stopped or isinstance(result, Transient)
            accepted += isinstance(result, bytes)
            answers.append(_success(number, result) if isinstance(result, bytes) else _failure(number, result))
        metrics.tickets_accepted.inc(accepted)
        return b"".join(answers), stopped

    def _registration(self, number: int, line: bytes | None) -> Registration:
        """Raises `Refused`, `DomainError` or `ValidationError` for a line that cannot be taken."""
        if line is None:
            raise Refused(413, "line_too_long", f"a line may have at most {BODY_LIMIT_BYTES} bytes")
        if too_deep(line):
            raise Refused(400, "json_too_deep", f"JSON may nest at most {JSON_DEPTH} levels deep")
        request = RegisterTicket.model_validate_json(line)
        key = None if self.key is None else f"{self.key}/{number}"
        return registration_of(self.desk, request, self.principal, line, key)


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
    """The id and the number out of `first_answer`, which begins with them."""
    return b'{"line":%d,"status":%d,%b}\n' % (number, CREATED, answer[1 : answer.index(b',"status"')])


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

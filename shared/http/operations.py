"""The operators' routes of every service, under `/v1/ops`: `ops` may do all of it, `supervisor` may look.

Parse, one call into `shared/operations`, answer. Reasons are masked before they are stored, for people write anything.
"""

import time
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import Table, select

from shared.contracts.topics import BRANCH_PLACEHOLDER, CONTROL, INCARNATION, consumed_topics, topic_file
from shared.database.audit import AuditReport, Head
from shared.database.audit_watch import check_alone, tell
from shared.database.engine import Database, Transaction
from shared.errors import Conflict, Invalid, NotFound
from shared.http.auth import DoorFirst, Principal, allow
from shared.http.fields import Code, Moment, RequestModel, ShortText
from shared.http.keys import Role
from shared.http.paging import Cursor, Limit, cursor_out, read_cursor
from shared.http.problems import Problem
from shared.http.references import ticket_reference
from shared.messaging import outbox, pauses
from shared.messaging.application import Applier
from shared.messaging.log_watch import LogWatch
from shared.messaging.outbox import Selection
from shared.messaging.tables import DeadLetterState
from shared.operations import figures, letters, settling
from shared.operations.figures import ParkedEvent, PausedTopic, Standing, Summary
from shared.operations.letters import DeadLetter, RawDeadLetter, ShownDeadLetter
from shared.operations.rebuild import Rebuilding, Rebuilt
from shared.operations.settling import Settled
from shared.privacy import mask

# A replay over HTTP answers after this long and says where to go on, so that no request lasts for minutes.
REPLAY_SECONDS = 5.0
REDRIVEN_AT_ONCE = 100

Operator = Annotated[Principal, Depends(allow(Role.ops))]
Looker = Annotated[Principal, Depends(allow(Role.ops, Role.supervisor))]
Reason = Annotated[ShortText, AfterValidator(mask), Field(description="why; it is kept in the audit trail")]
RowId = Annotated[int, Field(ge=1, le=letters.NEWEST)]
LetterId = Annotated[int, Path(ge=1, le=letters.NEWEST, description="number of the dead letter")]
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": Problem}}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}


@dataclass(frozen=True)
class Operated:
    """The parts of a service that operators reach. `tickets` is its table with `ticket_id` and `ticket_no`."""

    service: str
    database: Database
    watch: LogWatch
    applier: Applier[Any]
    tickets: Table
    rebuilding: Rebuilding | None = None


class DeadLetterPage(BaseModel):
    dead_letters: list[DeadLetter]
    next_cursor: str | None


class ParkedEvents(BaseModel):
    parked: list[ParkedEvent]


class Standings(BaseModel):
    positions: list[Standing]


class Redrive(RequestModel):
    """Which open dead letters to apply again: these ids, or those that fit every filter given, oldest first."""

    ids: Annotated[list[RowId], Field(min_length=1, max_length=REDRIVEN_AT_ONCE)] | None = None
    topic: Code | None = None
    error: ShortText | None = Field(default=None, description="a part of the reason")
    since: Moment | None = None
    after: Annotated[int, Field(ge=0, le=letters.NEWEST)] = 0
    reason: Reason


class Discard(RequestModel):
    ids: Annotated[list[RowId], Field(min_length=1, max_length=REDRIVEN_AT_ONCE)]
    reason: Reason


class SettledLetters(BaseModel):
    """`next_after`: more fit the filter; ask again with this as `after`."""

    results: list[Settled]
    next_after: int | None = None


class Replay(RequestModel):
    """What to publish again; nothing given: everything that services read, as far as the outbox keeps it."""

    topic: Code | None = None
    ticket: Code | None = Field(default=None, description="ticket number or id")
    since: Moment | None = Field(default=None, description="published at or after this (real time)")
    after: Annotated[int, Field(ge=0, le=letters.NEWEST)] = 0
    reason: Reason


class Replayed(BaseModel):
    """`marked` events will be published again. `next_after`: there is more; ask again with this as `after`."""

    marked: int
    next_after: int | None


class Pause(RequestModel):
    topic: Annotated[str, Field(max_length=128, description="a topic that this service reads, or * for all")]
    reason: Reason


class Rebuild(RequestModel):
    replace: bool = Field(default=False, description="make what differs equal to what was built")
    reason: Reason


class Pauses(BaseModel):
    """What is paused now; `lifted` names the pauses that this request ended."""

    paused: list[PausedTopic]
    lifted: list[str] = []


def operations_routes(operated: Operated) -> APIRouter:
    router = APIRouter(route_class=DoorFirst, prefix="/v1/ops", tags=["operations"])
    _looking(router, operated)
    _settling(router, operated)
    _streams(router, operated)
    return router


def _looking(router: APIRouter, operated: Operated) -> None:
    database = operated.database

    @router.get("/status", summary="Backlog, lag, dead letters, parked events and pauses")
    async def status(_: Looker) -> Summary:
        return await figures.summary(operated.service, database, operated.watch)

    @router.get("/positions", summary="Where reading stands, by partition")
    async def positions(_: Looker) -> Standings:
        return Standings(positions=await figures.standings(database, operated.watch))

    @router.get("/audit", summary="Compare the audit trail with its chain of seals", responses=CONFLICT)
    async def audit_chain(
        _: Looker,
        expect: Annotated[str | None, Query(max_length=128, description="a head noted earlier, number:hash")] = None,
        first: Annotated[int, Query(ge=1, le=letters.NEWEST, description="begin at this seal")] = 1,
    ) -> AuditReport:
        """Reads all of it, in steps. What was changed since it was sealed is named. 409 while another check runs."""
        try:
            head = None if expect is None else Head.read(expect)
        except ValueError as error:
            raise Invalid("invalid_head", str(error), pointer="/query/expect") from None
        report = await check_alone(database, expect=head, first=first)
        if first == 1:
            tell(report)
        return report

    @router.get("/parked", summary="Events that wait, and for what", responses=NOT_FOUND)
    async def parked(
        _: Looker, ticket: Annotated[Code | None, Query(description="number or id")] = None, limit: Limit = 50
    ) -> ParkedEvents:
        subject = None if ticket is None else await _subject(operated, ticket)
        return ParkedEvents(
            parked=await database.read(lambda connection: figures.parked(connection, subject, limit)),
        )

    @router.get("/dead-letters", summary="Records that could not be applied, newest first")
    async def dead_letters(
        _: Looker,
        state: DeadLetterState | None = None,
        topic: Annotated[Code | None, Query()] = None,
        error: Annotated[ShortText | None, Query(description="a part of the reason")] = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> DeadLetterPage:
        before = read_cursor(cursor)
        below = letters.NEWEST if before is None else min(before.int, letters.NEWEST)
        found = await database.read(
            lambda connection: letters.page(
                connection, state=state, topic=topic, error=error, below=below, limit=limit + 1
            )
        )
        more = len(found) > limit
        next_cursor = cursor_out(UUID(int=found[limit - 1].id)) if more else None
        return DeadLetterPage(dead_letters=found[:limit], next_cursor=next_cursor)

    @router.get("/dead-letters/{number}", summary="One dead letter, its text masked", responses=NOT_FOUND)
    async def dead_letter(_: Looker, number: LetterId) -> ShownDeadLetter:
        return await database.read(lambda connection: letters.show(connection, number))

    @router.get("/dead-letters/{number}/raw", summary="One dead letter, byte by byte; audited", responses=NOT_FOUND)
    async def raw_dead_letter(principal: Operator, number: LetterId) -> RawDeadLetter:
        return await database.write(lambda transaction: letters.raw(transaction, number, principal.actor))


def _settling(router: APIRouter, operated: Operated) -> None:
    database, applier = operated.database, operated.applier

    @router.post("/dead-letters:redrive", summary="Apply dead letters again", responses=NOT_FOUND)
    async def redrive(principal: Operator, request: Redrive) -> SettledLetters:
        """Each in its own transaction, as if just read; what was parked behind it follows. Safe to repeat."""
        filters = {name: getattr(request, name) for name in ("topic", "error", "since", "after")}
        ids = request.ids
        if ids is None:
            ids = await database.read(
                lambda connection: settling.open_letters(connection, **filters, limit=REDRIVEN_AT_ONCE)
            )
        results = [
            await settling.redrive(database, applier, each, actor=principal.actor, reason=request.reason)
            for each in ids
        ]
        more = request.ids is None and len(ids) == REDRIVEN_AT_ONCE
        return SettledLetters(results=results, next_after=ids[-1] if more else None)

    @router.post("/dead-letters:discard", summary="Give dead letters up", responses=NOT_FOUND)
    async def discard(principal: Operator, request: Discard) -> SettledLetters:
        """What such an event says never takes effect here; later events of its ticket go on without it."""
        results = [
            await settling.discard(database, applier, each, actor=principal.actor, reason=request.reason)
            for each in request.ids
        ]
        return SettledLetters(results=results)


def _streams(router: APIRouter, operated: Operated) -> None:
    database, service = operated.database, operated.service

    @router.post("/replay", summary="Publish events again", responses=NOT_FOUND)
    async def replay(principal: Operator, request: Replay) -> Replayed:
        """Readers drop what they have seen. Safe to repeat, and to stop in between."""
        subject = None if request.ticket is None else await _subject(operated, request.ticket)
        topics = (request.topic,) if request.topic else tuple(_published(service))
        if not all(_publishes(service, topic) for topic in topics):
            raise Invalid("topic_not_published_here", f"{service} publishes nothing on it", pointer="/topic")
        asked = request.model_dump(mode="json", exclude={"after"}, exclude_none=True)

        def note(transaction: Transaction, marked: int) -> None:
            transaction.audit(
                "outbox.replayed",
                actor=principal.actor,
                subject=str(subject or "*"),
                details={**asked, "marked": marked},
            )

        ends = time.monotonic() + REPLAY_SECONDS
        marked, next_after = 0, None
        selection = Selection(topics, request.since, subject)
        async for chunk in outbox.replay(database, selection, after=request.after, noted=note):
            marked += chunk.marked
            if not chunk.done and time.monotonic() > ends:
                next_after = chunk.last_id
                break
        return Replayed(marked=marked, next_after=next_after)

    @router.post("/pause", summary="Stop reading a topic")
    async def pause(principal: Operator, request: Pause) -> Pauses:
        """Within a second or two no process of this service reads it; nothing is lost, the lag grows."""
        _check_read(service, request.topic)
        await database.write(
            lambda transaction: pauses.pause(transaction, request.topic, actor=principal.actor, reason=request.reason)
        )
        return Pauses(paused=await database.read(figures.paused))

    @router.post("/resume", summary="Read a topic again")
    async def resume(principal: Operator, request: Pause) -> Pauses:
        """`*` lifts every pause, also the stop after too many dead letters in a row; then it is tried anew."""
        _check_read(service, request.topic)
        lifted = await database.write(
            lambda transaction: pauses.resume(transaction, request.topic, actor=principal.actor, reason=request.reason)
        )
        return Pauses(paused=await database.read(figures.paused), lifted=lifted)

    @router.post("/rebuild", summary="Build the read state again from the events and compare", responses=CONFLICT)
    async def rebuild(principal: Operator, request: Rebuild) -> Rebuilt:
        """Takes as long as reading the whole log; the service goes on meanwhile. 409 where nothing comes from events
        alone, and while another rebuild runs."""
        if operated.rebuilding is None:
            raise Conflict("no_read_state", f"{service} holds nothing that comes from events alone")
        return await operated.rebuilding.run(replacing=request.replace, actor=principal.actor, reason=request.reason)


async def _subject(operated: Operated, text: str) -> UUID:
    """Raises `NotFound` for a number that this service does not know."""
    reference = ticket_reference(text)
    if isinstance(reference, UUID):
        return reference
    columns = operated.tickets.c
    query = select(columns.ticket_id).where(columns.ticket_no == reference)
    found = await operated.database.read(lambda connection: connection.scalar(query))
    if found is None:
        raise NotFound("ticket_not_found", "no ticket of this number here")
    return UUID(str(found))


def _check_read(service: str, topic: str) -> None:
    if topic != pauses.ALL and topic not in _read(service):
        raise Invalid(
            "topic_not_read_here", f"{service} reads: {', '.join(_read(service))}; or * for all", pointer="/topic"
        )


def _read(service: str) -> list[str]:
    return [topic for topic in consumed_topics(service) if topic != INCARNATION]


def _published(service: str) -> list[str]:
    """The topics whose events this service may publish again without being asked for one: those that services read."""
    return [
        topic.name
        for topic in topic_file().topics
        if service in topic.producers and topic.name != CONTROL and BRANCH_PLACEHOLDER not in topic.name
    ]


def _publishes(service: str, name: str) -> bool:
    """One of those, or a branch's topic."""
    return name in _published(service) or any(
        service in topic.producers and name.startswith(topic.name.removesuffix(BRANCH_PLACEHOLDER))
        for topic in topic_file().topics
        if topic.name.endswith(BRANCH_PLACEHOLDER)
    )

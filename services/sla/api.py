"""sla over HTTP: parse, one use case, answer."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from services.sla.domain.records import EscalationStatus, IncidentStatus
from services.sla.repository import clocks, days, incidents
from services.sla.schemas import (
    CalendarYear,
    ClockList,
    DayView,
    DueList,
    EscalationPage,
    EscalationView,
    IncidentDetail,
    IncidentPage,
    SetDay,
    clock_view,
    day_view,
    due_view,
    escalation_view,
    incident_detail,
    incident_view,
)
from services.sla.usecases import edit
from services.sla.usecases.desk import Desk
from shared.database.engine import Database, Transaction
from shared.errors import NotFound
from shared.http.auth import DoorFirst, Principal, allow
from shared.http.fields import Day
from shared.http.idempotency import IdempotencyKey, answer_once
from shared.http.keys import Role
from shared.http.paging import MAX_PAGE, Cursor, Limit, cursor_out, read_cursor
from shared.http.problems import Problem
from shared.http.references import TicketReference

STAFF = (Role.reviewer, Role.callback, Role.supervisor, Role.ops)
Anyone = Annotated[Principal, Depends(allow(*Role))]
Handler = Annotated[Principal, Depends(allow(*STAFF, Role.branch))]
Staff = Annotated[Principal, Depends(allow(*STAFF))]
Answering = Annotated[Principal, Depends(allow(Role.reviewer, Role.supervisor, Role.callback))]
Keeper = Annotated[Principal, Depends(allow(Role.ops, Role.supervisor))]

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
CONFLICT: dict[int | str, dict[str, Any]] = {404: {"model": Problem}, 409: {"model": Problem}}


def routes(desk: Desk, database: Database) -> APIRouter:
    router = APIRouter(route_class=DoorFirst, prefix="/v1")

    async def find_ticket(principal: Principal, reference: str) -> Any:
        return await database.read(lambda connection: edit.find_ticket(connection, principal, reference))

    @router.get(
        "/tickets/{reference}/clocks",
        tags=["clocks"],
        summary="A ticket's clocks, each with its arithmetic in words",
        response_model=ClockList,
        responses=NOT_FOUND,
    )
    async def ticket_clocks(reference: TicketReference, principal: Anyone) -> ClockList:
        ticket = await find_ticket(principal, reference)
        rows = await database.read(lambda connection: clocks.of_ticket(connection, ticket.ticket_id))
        items = [clock_view(desk.pack, row) for row in rows]
        return ClockList(ticket_id=ticket.ticket_id, ticket_no=ticket.ticket_no, items=items)

    @router.get(
        "/tickets/{reference}/escalations",
        tags=["escalations"],
        summary="A ticket's latest escalations, the oldest first",
        response_model=EscalationPage,
        responses=NOT_FOUND,
    )
    async def ticket_escalations(reference: TicketReference, principal: Handler) -> EscalationPage:
        ticket = await find_ticket(principal, reference)
        rows = await database.read(lambda connection: incidents.escalations_of(connection, ticket.ticket_id, MAX_PAGE))
        return EscalationPage(items=[escalation_view(row) for row in rows])

    @router.get(
        "/escalations", tags=["escalations"], summary="Escalations, the newest first", response_model=EscalationPage
    )
    async def escalations(
        principal: Handler, status: EscalationStatus | None = None, cursor: Cursor = None, limit: Limit = 50
    ) -> EscalationPage:
        """A branch sees those of the tickets that are with it, or that it gave back and no other has yet."""
        branch = principal.scope if principal.role is Role.branch else None
        before = read_cursor(cursor)
        rows = await database.read(
            lambda connection: incidents.page_escalations(connection, status, branch, before, limit + 1)
        )
        following = cursor_out(rows[limit - 1].escalation_id) if len(rows) > limit else None
        return EscalationPage(items=[escalation_view(row) for row in rows[:limit]], next_cursor=following)

    @router.post(
        "/escalations/{escalation_id}/acknowledge",
        tags=["escalations"],
        summary="Take an escalation in hand; its ladder goes no further",
        response_model=EscalationView,
        responses=CONFLICT,
    )
    async def acknowledge(
        http: Request, escalation_id: UUID, principal: Answering, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Acknowledges every open escalation of the same clock. A second time gives the same answer."""

        async def work(transaction: Transaction) -> EscalationView:
            return escalation_view(await edit.acknowledge_escalation(desk, transaction, principal, escalation_id))

        return await answer_once(database, http, principal, idempotency_key, work)

    @router.get("/incidents", tags=["incidents"], summary="Incidents, the newest first", response_model=IncidentPage)
    async def incident_page(
        principal: Staff, status: IncidentStatus | None = None, cursor: Cursor = None, limit: Limit = 50
    ) -> IncidentPage:
        before = read_cursor(cursor)
        rows = await database.read(lambda connection: incidents.page_incidents(connection, status, before, limit + 1))
        following = cursor_out(rows[limit - 1].incident_id) if len(rows) > limit else None
        return IncidentPage(items=[incident_view(row) for row in rows[:limit]], next_cursor=following)

    @router.get(
        "/incidents/{incident_id}",
        tags=["incidents"],
        summary="An incident with its members",
        response_model=IncidentDetail,
        responses=NOT_FOUND,
    )
    async def incident(incident_id: UUID, principal: Staff, cursor: Cursor = None, limit: Limit = 50) -> IncidentDetail:
        before = read_cursor(cursor)
        row = await database.read(lambda connection: incidents.find_incident(connection, incident_id))
        if row is None:
            raise NotFound("incident_not_found", "no incident of this id")
        found = await database.read(lambda connection: incidents.members(connection, incident_id, before, limit + 1))
        following = cursor_out(found[limit - 1].ticket_id) if len(found) > limit else None
        return incident_detail(row, found[:limit], following)

    @router.get("/due", tags=["clocks"], summary="What is due next", response_model=DueList)
    async def due(
        principal: Handler,
        within_minutes: Annotated[int, Query(ge=1, le=7 * 24 * 60, description="business time")] = 60,
        limit: Limit = 50,
    ) -> DueList:
        """A branch sees the clocks of the tickets that are with it, or that it gave back and no other has yet."""
        branch = principal.scope if principal.role is Role.branch else None
        now = desk.clock.now()
        until = now + timedelta(minutes=within_minutes)
        rows = await database.read(lambda connection: clocks.due_soon(connection, now, until, branch, limit))
        return DueList(now=now, items=[due_view(desk.pack, row, now) for row in rows])

    @router.get("/calendar", tags=["calendar"], summary="The working calendar of a year", response_model=CalendarYear)
    async def calendar(principal: Anyone, year: Annotated[int, Query(ge=2004, le=2100)]) -> CalendarYear:
        rows = await database.read(lambda connection: days.of_year(connection, year))
        return CalendarYear(
            year=year,
            published_through=desk.almanac.published_through,
            working_days=sum(row.working for row in rows),
            items=[day_view(row) for row in rows],
        )

    @router.put("/calendar/{day}", tags=["calendar"], summary="Say whether a day is worked", response_model=DayView)
    async def set_day(
        day: Annotated[Day, Path(examples=["2026-10-10"])], request: SetDay, principal: Keeper
    ) -> DayView:
        """Clocks that begin from now on reckon with it; running ones keep their deadline, unless it is provisional and
        the year is published by it."""
        row = await database.write(
            lambda transaction: edit.set_day(desk, transaction, principal, day, request.working, request.source)
        )
        desk.almanac.expire()
        return day_view(row)

    return router

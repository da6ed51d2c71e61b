"""intake over HTTP: parse, one use case, answer."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from services.intake import repository
from services.intake.domain import TicketStatus
from services.intake.schemas import (
    IMPORT_ANSWER,
    IMPORT_REQUEST,
    AnswerTicket,
    Contact,
    EraseCustomer,
    Erased,
    MaskedCustomer,
    RegisterTicket,
    SearchTickets,
    SupplementTicket,
    TicketAccepted,
    TicketPage,
    TicketView,
    Timeline,
    TimelineEntry,
    WithdrawTicket,
)
from services.intake.usecases import change
from services.intake.usecases.accept import Accept
from services.intake.usecases.bulk import Import
from services.intake.usecases.desk import Desk, links, may_see, opened
from services.intake.usecases.erase import erase_customer
from shared.contracts.ticket import TicketSnapshot
from shared.database.engine import Database, Transaction
from shared.errors import Conflict, NotFound
from shared.http.auth import DoorFirst, Principal, allow
from shared.http.fields import Moment, RequestModel
from shared.http.idempotency import IdempotencyKey, answer_once
from shared.http.keys import Role
from shared.http.ndjson import MEDIA_TYPES, StreamedAnswer
from shared.http.paging import Cursor, Limit, cursor_out, read_cursor
from shared.http.problems import Problem, Refused, busy
from shared.http.references import TicketReference, ticket_reference
from shared.privacy import mask_name, mask_phone

ACCEPT_PATH = "/v1/tickets"
IMPORT_PATH = "/v1/tickets:batch"
# Each holds what its client has not read yet (shared.http.ndjson).
IMPORTS_AT_ONCE = 4

FRONT = (Role.front_line, Role.supervisor)
READERS = (Role.front_line, Role.reviewer, Role.branch, Role.callback, Role.supervisor, Role.ops)
HANDLERS = (Role.reviewer, Role.branch, Role.callback, Role.supervisor)

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
CONFLICT: dict[int | str, dict[str, Any]] = {404: {"model": Problem}, 409: {"model": Problem}}

Change = Callable[[Desk, Transaction, Principal, UUID | str, Any], Awaitable[TicketAccepted]]

# What the front line may still do to a ticket: its request, what it does, and how the documentation names it.
CHANGES: tuple[tuple[str, type[RequestModel], Change, str], ...] = (
    ("supplement", SupplementTicket, change.supplement_ticket, "Add what a return asked for"),
    ("withdraw", WithdrawTicket, change.withdraw_ticket, "The customer takes the complaint back"),
    ("answer", AnswerTicket, change.answer_ticket, "A first-contact solution"),
)


def routes(desk: Desk, database: Database, accept: Accept) -> APIRouter:
    router = APIRouter(route_class=DoorFirst, prefix="/v1", tags=["tickets"])

    @router.post(
        ACCEPT_PATH.removeprefix(router.prefix),
        status_code=201,
        summary="Take a complaint in",
        response_model=TicketAccepted,
        responses={400: {"model": Problem}, 413: {"model": Problem}},
    )
    async def register_ticket(
        http: Request,
        request: RegisterTicket,
        principal: Annotated[Principal, Depends(allow(*FRONT))],
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Safe to repeat: with the same `Idempotency-Key`, or the same `channel` and `external_id`, the first answer
        comes again. 201 is sent only after the ticket is stored for good."""
        answer = await accept(principal, request, await http.body(), idempotency_key)
        return Response(answer, status_code=201, media_type="application/json")

    importing = asyncio.Semaphore(IMPORTS_AT_ONCE)

    @router.post(
        IMPORT_PATH.removeprefix(router.prefix),
        summary="Take many complaints in, a line each",
        response_class=Response,
        responses={200: IMPORT_ANSWER, 413: {"model": Problem}, 415: {"model": Problem}},
        openapi_extra={"requestBody": IMPORT_REQUEST},
    )
    async def import_tickets(
        http: Request,
        principal: Annotated[Principal, Depends(allow(*FRONT))],
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Lines are answered one by one and in order; a bad one does not stop the others. With an `Idempotency-Key`,
        or an `external_id` in each line, the whole import can be sent again after a cut: lines taken before get
        their first answer. A `503` line is the end: send again from the first such line on. Read while you send."""
        if http.headers.get("content-type", "").partition(";")[0].strip().lower() not in MEDIA_TYPES:
            raise Refused(415, "unsupported_media_type", f"one of these is expected: {', '.join(MEDIA_TYPES)}")
        accept.refuse_when_overloaded()
        if importing.locked():
            raise busy(f"{IMPORTS_AT_ONCE} imports are running; try again later", "too_many_imports")
        work = Import(desk, accept.registrations, principal, idempotency_key, accept.overloaded)
        return StreamedAnswer(within(importing, work.answers(http.stream())))

    @router.get("/tickets", summary="Tickets, newest first", response_model=TicketPage)
    async def tickets(
        principal: Annotated[Principal, Depends(allow(*READERS))],
        status: TicketStatus | None = None,
        channel: Annotated[str | None, Query(max_length=128)] = None,
        category: Annotated[str | None, Query(max_length=128)] = None,
        branch: Annotated[str | None, Query(max_length=64)] = None,
        customer_key: Annotated[str | None, Query(max_length=64)] = None,
        accepted_since: Moment | None = None,
        accepted_until: Moment | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> Response:
        filters = {
            "status": status,
            "channel": channel,
            "category": category,
            "branch": branch,
            "customer_key": customer_key,
            "accepted_since": accepted_since,
            "accepted_until": accepted_until,
        }
        return await _page(principal, filters, read_cursor(cursor), limit)

    @router.post("/tickets:search", summary="A customer's tickets, by phone", response_model=TicketPage)
    async def search(
        request: SearchTickets,
        principal: Annotated[Principal, Depends(allow(Role.front_line, Role.reviewer, Role.supervisor))],
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> Response:
        customer_key = desk.vault.customer_key(request.phone)
        await database.write(lambda transaction: change.note_search(transaction, principal, customer_key))
        return await _page(principal, {"customer_key": customer_key}, read_cursor(cursor), limit)

    @router.post(
        "/customers:erase",
        tags=["customers"],
        summary="Erase a customer's personal data in all services",
        response_model=Erased,
        responses={409: {"model": Problem}},
    )
    async def erase(
        http: Request,
        request: EraseCustomer,
        principal: Annotated[Principal, Depends(allow(Role.supervisor))],
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """For closed tickets only: while one is open, 409 names it. Safe to repeat. Here it is done with the answer;
        the other services follow within seconds. What is in the log of Kafka goes with its retention."""
        return await answer_once(
            database, http, principal, idempotency_key, lambda tx: erase_customer(desk, tx, principal, request)
        )

    async def _page(principal: Principal, filters: dict[str, Any], before: UUID | None, limit: int) -> Response:
        wanted = {name: value for name, value in filters.items() if value is not None}
        if principal.role is Role.branch:
            wanted["branch"] = principal.scope
        elif principal.role is Role.front_line and principal.scope is not None:
            wanted["channel"] = principal.scope
        rows = await database.read(lambda connection: repository.page(connection, wanted, before, limit + 1))
        following = cursor_out(rows[limit - 1].ticket_id) if len(rows) > limit else None
        page = TicketPage(items=[_view(desk, principal, row) for row in rows[:limit]], next_cursor=following)
        return _json(page)

    @router.get(
        "/tickets/{reference}", summary="A ticket, by number or id", response_model=TicketView, responses=NOT_FOUND
    )
    async def ticket(reference: TicketReference, principal: Annotated[Principal, Depends(allow(*READERS))]) -> Response:
        return _json(_view(desk, principal, await _find(reference, principal)))

    @router.get(
        "/tickets/{reference}/timeline",
        summary="Everything that happened to a ticket, in all services: who, when, why",
        response_model=Timeline,
        responses=NOT_FOUND,
    )
    async def timeline(
        reference: TicketReference, principal: Annotated[Principal, Depends(allow(*READERS))]
    ) -> Response:
        row = await _find(reference, principal)
        entries = await database.read(lambda connection: repository.timeline(connection, row.ticket_id))
        return _json(
            Timeline(
                ticket_id=row.ticket_id,
                ticket_no=row.ticket_no,
                status=row.status,
                entries=[
                    TimelineEntry(
                        at=e.at, service=e.service, type=e.type, actor=e.actor, rules=e.rules, details=e.details
                    )
                    for e in entries
                ],
            )
        )

    @router.get(
        "/tickets/{reference}/contact",
        summary="The customer's contact, for who handles the ticket now; every read is recorded",
        response_model=Contact,
        responses=NOT_FOUND,
    )
    async def contact(
        reference: TicketReference, principal: Annotated[Principal, Depends(allow(*HANDLERS))]
    ) -> Response:
        ticket_no, personal = await database.write(
            lambda transaction: change.read_contact(desk, transaction, principal, ticket_reference(reference))
        )
        return _json(
            Contact(
                ticket_no=ticket_no,
                name=personal.name,
                phone=personal.phone,
                contact_phone=personal.contact_phone or personal.phone,
                content=personal.content,
                address=personal.address,
            )
        )

    def add(name: str, model: type[RequestModel], step: Change, summary: str) -> None:
        @router.post(
            f"/tickets/{{reference}}/{name}",
            name=name,
            summary=summary,
            response_model=TicketAccepted,
            responses=CONFLICT,
        )
        async def change_route(
            http: Request,
            reference: TicketReference,
            request: model,  # type: ignore[valid-type]
            principal: Annotated[Principal, Depends(allow(*FRONT))],
            idempotency_key: IdempotencyKey = None,
        ) -> Response:
            return await answer_once(
                database,
                http,
                principal,
                idempotency_key,
                lambda tx: step(desk, tx, principal, ticket_reference(reference), request),
            )

    for entry in CHANGES:
        add(*entry)

    async def _find(reference: str, principal: Principal) -> Any:
        row = await database.read(lambda connection: repository.find(connection, ticket_reference(reference)))
        if row is None or not may_see(principal, row):
            raise NotFound("ticket_not_found", "no ticket of this number")
        return row

    return router


async def within(places: asyncio.Semaphore, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The parts, holding one of the places until they end."""
    async with places:
        async for part in parts:
            yield part


def _masked(desk: Desk, principal: Principal, row: Any) -> MaskedCustomer | None:
    if principal.role is Role.ops:
        return None
    try:
        personal = opened(desk, row)
    except Conflict:
        return None
    return MaskedCustomer(
        name=mask_name(personal.name) if personal.name else None,
        phone=mask_phone(personal.phone),
        contact_phone=mask_phone(personal.contact_phone or personal.phone),
    )


def _view(desk: Desk, principal: Principal, row: Any) -> TicketView:
    return TicketView(
        ticket_id=row.ticket_id,
        ticket_no=row.ticket_no,
        status=row.status,
        version=row.version,
        branch=row.branch,
        outcome=row.outcome,
        accepted_at=row.accepted_at,
        updated_at=row.updated_at,
        closed_at=row.closed_at,
        customer=_masked(desk, principal, row),
        ticket=TicketSnapshot.model_validate(row.snapshot),
        links=links(row.ticket_no),
    )


def _json(model: Any) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")

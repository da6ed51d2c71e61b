"""dispatch over HTTP: parse, one use case, answer."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from services.dispatch import repository, usecases
from services.dispatch.domain.order import OrderStatus, WorkOrder
from services.dispatch.schemas import (
    CallbackQueue,
    CallbackResult,
    Close,
    OrderPage,
    OrderView,
    Progress,
    Raise,
    Reopen,
    ReplyIn,
    Return,
    Transfer,
    Urge,
    order_view,
)
from services.dispatch.usecases import Desk, may_see
from shared.database.engine import Database, Transaction
from shared.errors import NotFound
from shared.http.auth import Principal, allow
from shared.http.idempotency import IdempotencyKey, answer_once, request_hash
from shared.http.keys import Role
from shared.http.paging import Cursor, Limit, cursor_out, read_cursor
from shared.http.problems import Problem
from shared.http.references import TicketReference, ticket_reference

Handler = Annotated[Principal, Depends(allow(Role.branch, Role.supervisor))]
Caller = Annotated[Principal, Depends(allow(Role.callback, Role.supervisor))]
Urger = Annotated[Principal, Depends(allow(Role.front_line, Role.reviewer, Role.callback, Role.supervisor))]
Reader = Annotated[Principal, Depends(allow(Role.branch, Role.reviewer, Role.callback, Role.supervisor, Role.ops))]

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
CONFLICT: dict[int | str, dict[str, Any]] = {404: {"model": Problem}, 409: {"model": Problem}}


def routes(desk: Desk, database: Database) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["orders"])

    async def act(
        http: Request,
        principal: Principal,
        key: str | None,
        reference: str,
        verb: Callable[[WorkOrder, str, datetime], None],
    ) -> Response:
        async def work(transaction: Transaction) -> tuple[int, bytes]:
            row = await usecases.act(desk, transaction, principal, reference, verb)
            return 200, order_view(row).model_dump_json().encode()

        body_hash = request_hash(http.url.path.encode(), await http.body())
        return await answer_once(database, principal, key, body_hash, work)

    @router.get("/orders", summary="Work orders, newest first; a branch sees its own", response_model=OrderPage)
    async def orders(
        principal: Reader,
        branch: Annotated[str | None, Query(max_length=64)] = None,
        status: OrderStatus | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> OrderPage:
        scope = principal.scope if principal.role is Role.branch else branch
        filters = {name: value for name, value in (("branch", scope), ("status", status)) if value is not None}
        before = read_cursor(cursor)
        rows = await database.read(lambda connection: repository.page(connection, filters, before, limit + 1))
        following = cursor_out(rows[limit - 1].ticket_id) if len(rows) > limit else None
        return OrderPage(items=[order_view(row) for row in rows[:limit]], next_cursor=following)

    @router.get("/callbacks", summary="Replied orders that wait for a callback", response_model=CallbackQueue)
    async def callbacks(principal: Caller, limit: Limit = 50) -> CallbackQueue:
        rows, waiting = await database.read(lambda connection: repository.waiting_for_callback(connection, limit))
        return CallbackQueue(items=[order_view(row) for row in rows], waiting=waiting)

    @router.get("/orders/{reference}", summary="One work order", response_model=OrderView, responses=NOT_FOUND)
    async def order(reference: TicketReference, principal: Reader) -> OrderView:
        row = await database.read(lambda connection: repository.find(connection, ticket_reference(reference)))
        if row is None or not may_see(principal, row):
            raise NotFound("order_not_found", "no order of this number")
        return order_view(row)

    @router.post("/orders/{reference}/accept", summary="Sign for it", response_model=OrderView, responses=CONFLICT)
    async def accept(
        http: Request, reference: TicketReference, principal: Handler, idempotency_key: IdempotencyKey = None
    ) -> Response:
        return await act(
            http, principal, idempotency_key, reference, lambda o, who, now: usecases.accept(desk, o, who, now)
        )

    @router.post("/orders/{reference}/progress", summary="Tell of a step", response_model=OrderView, responses=CONFLICT)
    async def progress(
        http: Request,
        reference: TicketReference,
        request: Progress,
        principal: Handler,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http,
            principal,
            idempotency_key,
            reference,
            lambda o, who, now: usecases.progress(desk, o, request, who, now),
        )

    @router.post(
        "/orders/{reference}/reply",
        summary="Answer, with the five elements (GDM-T8)",
        response_model=OrderView,
        responses=CONFLICT,
    )
    async def reply(
        http: Request,
        reference: TicketReference,
        request: ReplyIn,
        principal: Handler,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http, principal, idempotency_key, reference, lambda o, who, now: usecases.reply(desk, o, request, who, now)
        )

    @router.post(
        "/orders/{reference}/return",
        summary="Give it back, with a reason",
        response_model=OrderView,
        responses=CONFLICT,
    )
    async def give_back(
        http: Request,
        reference: TicketReference,
        request: Return,
        principal: Handler,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http,
            principal,
            idempotency_key,
            reference,
            lambda o, who, now: usecases.give_back(desk, o, request, who, now),
        )

    @router.post(
        "/orders/{reference}/transfer",
        summary="Pass it to another branch",
        response_model=OrderView,
        responses=CONFLICT,
    )
    async def transfer(
        http: Request,
        reference: TicketReference,
        request: Transfer,
        principal: Handler,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http,
            principal,
            idempotency_key,
            reference,
            lambda o, who, now: usecases.transfer(desk, o, request, who, now),
        )

    @router.post(
        "/orders/{reference}/raise", summary="Raise it to the province", response_model=OrderView, responses=CONFLICT
    )
    async def raise_up(
        http: Request,
        reference: TicketReference,
        request: Raise,
        principal: Handler,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http,
            principal,
            idempotency_key,
            reference,
            lambda o, who, now: usecases.raise_up(desk, o, request, who, now),
        )

    @router.post(
        "/orders/{reference}/urge", summary="Ask the branch to hurry", response_model=OrderView, responses=CONFLICT
    )
    async def urge(
        http: Request,
        reference: TicketReference,
        request: Urge,
        principal: Urger,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http, principal, idempotency_key, reference, lambda o, who, now: usecases.urge(desk, o, request, who, now)
        )

    @router.post(
        "/orders/{reference}/callback", summary="Record a callback", response_model=OrderView, responses=CONFLICT
    )
    async def callback(
        http: Request,
        reference: TicketReference,
        request: CallbackResult,
        principal: Caller,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http,
            principal,
            idempotency_key,
            reference,
            lambda o, who, now: usecases.record_callback(desk, o, request, who, now),
        )

    @router.post(
        "/orders/{reference}/close",
        summary="Close it, with the customer's true satisfaction",
        response_model=OrderView,
        responses=CONFLICT,
    )
    async def close(
        http: Request,
        reference: TicketReference,
        request: Close,
        principal: Caller,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http, principal, idempotency_key, reference, lambda o, who, now: usecases.close(desk, o, request, who, now)
        )

    @router.post(
        "/orders/{reference}/reopen", summary="Send it out again", response_model=OrderView, responses=CONFLICT
    )
    async def reopen(
        http: Request,
        reference: TicketReference,
        request: Reopen,
        principal: Caller,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http, principal, idempotency_key, reference, lambda o, who, now: usecases.reopen(desk, o, request, who, now)
        )

    return router

"""dispatch over HTTP: parse, one use case, answer."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from services.dispatch import repository, schemas, usecases
from services.dispatch.domain.order import OrderStatus, WorkOrder
from services.dispatch.schemas import CallbackQueue, OrderPage, OrderView, order_view
from services.dispatch.usecases import Act, Acts, Desk, may_see
from shared.database.engine import Database
from shared.errors import NotFound
from shared.http.auth import DoorFirst, Principal, allow
from shared.http.fields import RequestModel
from shared.http.idempotency import IdempotencyKey, request_hash
from shared.http.keys import Role
from shared.http.paging import Cursor, Limit, cursor_out, read_cursor
from shared.http.problems import Problem
from shared.http.references import TicketReference, ticket_reference
from shared.telemetry.tracing import current_traceparent

HANDLERS = (Role.branch, Role.supervisor)
CALLERS = (Role.callback, Role.supervisor)
URGERS = (Role.front_line, Role.reviewer, Role.callback, Role.supervisor)

Caller = Annotated[Principal, Depends(allow(*CALLERS))]
Reader = Annotated[Principal, Depends(allow(Role.branch, Role.reviewer, Role.callback, Role.supervisor, Role.ops))]

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
CONFLICT: dict[int | str, dict[str, Any]] = {404: {"model": Problem}, 409: {"model": Problem}}

Verb = Callable[[Desk, WorkOrder, Any, str, datetime], None]

# Each verb on an order: its request, who may use it, what it does, and how the documentation names it.
VERBS: tuple[tuple[str, type[RequestModel], tuple[Role, ...], Verb, str], ...] = (
    ("progress", schemas.Progress, HANDLERS, usecases.progress, "Tell of a step"),
    ("reply", schemas.ReplyIn, HANDLERS, usecases.reply, "Answer, with the five elements (GDM-T8)"),
    ("return", schemas.Return, HANDLERS, usecases.give_back, "Give it back, with a reason"),
    ("transfer", schemas.Transfer, HANDLERS, usecases.transfer, "Pass it to another branch"),
    ("raise", schemas.Raise, HANDLERS, usecases.raise_up, "Raise it to the province, or out to another one"),
    ("urge", schemas.Urge, URGERS, usecases.urge, "Ask the branch to hurry"),
    ("callback", schemas.CallbackResult, CALLERS, usecases.record_callback, "Record a callback"),
    ("close", schemas.Close, CALLERS, usecases.close, "Close it, with the customer's true satisfaction"),
    ("reopen", schemas.Reopen, CALLERS, usecases.reopen, "Send it out again"),
)


def routes(desk: Desk, database: Database) -> APIRouter:
    acts = Acts(desk, database)
    router = APIRouter(route_class=DoorFirst, prefix="/v1", tags=["orders"])

    async def act(
        http: Request,
        principal: Principal,
        key: str | None,
        reference: str,
        verb: Callable[[WorkOrder, str, datetime], None],
    ) -> Response:
        asked = request_hash(http.url.path.encode(), await http.body())
        known = ticket_reference(reference)
        answer = await acts(Act(principal, known, verb, key, asked, current_traceparent()))
        return Response(answer, media_type="application/json")

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
        found = await database.read(lambda connection: repository.find(connection, ticket_reference(reference)))
        if found is None or not may_see(principal, found):
            raise NotFound("order_not_found", "no order of this number")
        return order_view(found)

    @router.post("/orders/{reference}/accept", summary="Sign for it", response_model=OrderView, responses=CONFLICT)
    async def accept(
        http: Request,
        reference: TicketReference,
        principal: Annotated[Principal, Depends(allow(*HANDLERS))],
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http, principal, idempotency_key, reference, lambda order, who, now: usecases.accept(desk, order, who, now)
        )

    def add(name: str, model: type[RequestModel], roles: tuple[Role, ...], verb: Verb, summary: str) -> None:
        @router.post(
            f"/orders/{{reference}}/{name}", name=name, summary=summary, response_model=OrderView, responses=CONFLICT
        )
        async def verb_route(
            http: Request,
            reference: TicketReference,
            request: model,  # type: ignore[valid-type]
            principal: Annotated[Principal, Depends(allow(*roles))],
            idempotency_key: IdempotencyKey = None,
        ) -> Response:
            return await act(
                http,
                principal,
                idempotency_key,
                reference,
                lambda order, who, now: verb(desk, order, request, who, now),
            )

    for entry in VERBS:
        add(*entry)
    return router

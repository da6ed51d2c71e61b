"""review over HTTP: parse, one use case, answer."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from services.review import repository, usecases
from services.review.domain import ApprovalStatus
from services.review.schemas import (
    ApprovalList,
    ApprovalView,
    Approve,
    ClaimNext,
    Merge,
    Opinion,
    Reclassify,
    Return,
    ReviewPage,
    ReviewView,
    review_view,
)
from services.review.usecases import Desk
from shared.database.engine import Database, Transaction
from shared.errors import NotFound
from shared.http.auth import Principal, allow
from shared.http.idempotency import IdempotencyKey, answer_once, request_hash
from shared.http.keys import Role
from shared.http.paging import Limit
from shared.http.problems import Problem
from shared.http.references import TicketReference, ticket_reference

Reviewer = Annotated[Principal, Depends(allow(Role.reviewer, Role.supervisor))]
Supervisor = Annotated[Principal, Depends(allow(Role.supervisor))]
Reader = Annotated[Principal, Depends(allow(Role.reviewer, Role.supervisor, Role.ops))]

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
CONFLICT: dict[int | str, dict[str, Any]] = {404: {"model": Problem}, 409: {"model": Problem}}


def routes(desk: Desk, database: Database) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["reviews"])

    async def act(
        http: Request,
        principal: Principal,
        key: str | None,
        work: Callable[[Transaction], Awaitable[Any]],
        view: Callable[[Any], Any] = review_view,
    ) -> Response:
        async def run(transaction: Transaction) -> tuple[int, bytes]:
            return 200, view(await work(transaction)).model_dump_json().encode()

        body_hash = request_hash(http.url.path.encode(), await http.body())
        return await answer_once(database, principal, key, body_hash, run)

    @router.get("/reviews", summary="What waits for a person, the most urgent first", response_model=ReviewPage)
    async def queue(principal: Reader, limit: Limit = 50) -> ReviewPage:
        rows, waiting = await database.read(lambda connection: repository.queue(connection, limit))
        return ReviewPage(items=[review_view(row) for row in rows], waiting=waiting)

    @router.post("/reviews:claim", summary="Take the most urgent reviews that nobody holds", response_model=ReviewPage)
    async def claim_next(request: ClaimNext, principal: Reviewer) -> ReviewPage:
        """A claim lapses by itself, so that a review is never stuck with somebody who went home."""
        rows = await database.write(
            lambda transaction: usecases.claim_next(desk, transaction, principal, request.count)
        )
        return ReviewPage(items=[review_view(row) for row in rows], waiting=len(rows))

    @router.get("/reviews/{reference}", summary="One review", response_model=ReviewView, responses=NOT_FOUND)
    async def review(reference: TicketReference, principal: Reader) -> ReviewView:
        row = await database.read(lambda connection: repository.find(connection, ticket_reference(reference)))
        if row is None:
            raise NotFound("review_not_found", "no review of this ticket")
        return review_view(row)

    @router.post("/reviews/{reference}/claim", summary="Take one review", response_model=ReviewView, responses=CONFLICT)
    async def claim(
        http: Request, reference: TicketReference, principal: Reviewer, idempotency_key: IdempotencyKey = None
    ) -> Response:
        return await act(http, principal, idempotency_key, lambda tx: usecases.claim(desk, tx, principal, reference))

    @router.post(
        "/reviews/{reference}/release", summary="Give a claim up", response_model=ReviewView, responses=CONFLICT
    )
    async def release(
        http: Request, reference: TicketReference, principal: Reviewer, idempotency_key: IdempotencyKey = None
    ) -> Response:
        return await act(http, principal, idempotency_key, lambda tx: usecases.release(tx, principal, reference))

    @router.post(
        "/reviews/{reference}/approve",
        summary="Ready to dispatch",
        response_model=ReviewView,
        responses=CONFLICT,
    )
    async def approve(
        http: Request,
        reference: TicketReference,
        request: Approve,
        principal: Reviewer,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http, principal, idempotency_key, lambda tx: usecases.approve(desk, tx, principal, reference, request)
        )

    @router.post(
        "/reviews/{reference}/return",
        summary="Back to the agent, with a coded reason and what is missing",
        response_model=ReviewView,
        responses=CONFLICT,
    )
    async def give_back(
        http: Request,
        reference: TicketReference,
        request: Return,
        principal: Reviewer,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http, principal, idempotency_key, lambda tx: usecases.give_back(desk, tx, principal, reference, request)
        )

    @router.post(
        "/reviews/{reference}/reclassify",
        summary="Correct category or classes before dispatch",
        response_model=ReviewView,
        responses=CONFLICT,
    )
    async def reclassify(
        http: Request,
        reference: TicketReference,
        request: Reclassify,
        principal: Reviewer,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http, principal, idempotency_key, lambda tx: usecases.reclassify(desk, tx, principal, reference, request)
        )

    @router.post(
        "/reviews/{reference}/merge",
        summary="Confirm a duplicate of a ticket still in process",
        response_model=ReviewView,
        responses=CONFLICT,
    )
    async def merge(
        http: Request,
        reference: TicketReference,
        request: Merge,
        principal: Reviewer,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http, principal, idempotency_key, lambda tx: usecases.merge(desk, tx, principal, reference, request)
        )

    @router.post(
        "/reviews/{reference}/opinion",
        summary="Ask the supervisor for an opinion on a major complaint",
        response_model=ReviewView,
        responses=CONFLICT,
    )
    async def ask_opinion(
        http: Request, reference: TicketReference, principal: Reviewer, idempotency_key: IdempotencyKey = None
    ) -> Response:
        return await act(
            http, principal, idempotency_key, lambda tx: usecases.ask_opinion(desk, tx, principal, reference)
        )

    @router.get("/approvals", summary="Opinions asked for", response_model=ApprovalList)
    async def list_approvals(
        principal: Reader,
        status: Annotated[ApprovalStatus, Query()] = ApprovalStatus.requested,
        limit: Limit = 50,
    ) -> ApprovalList:
        rows = await database.read(lambda connection: repository.list_approvals(connection, status, limit))
        return ApprovalList(items=[_approval_view(row) for row in rows])

    @router.post(
        "/approvals/{approval_id}/decide",
        summary="Give the opinion",
        response_model=ApprovalView,
        responses=CONFLICT,
    )
    async def decide(
        http: Request,
        approval_id: UUID,
        request: Opinion,
        principal: Supervisor,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        return await act(
            http,
            principal,
            idempotency_key,
            lambda tx: usecases.decide_opinion(desk, tx, principal, approval_id, request),
            _approval_view,
        )

    return router


def _approval_view(row: Any) -> ApprovalView:
    return ApprovalView.model_validate(row, from_attributes=True)

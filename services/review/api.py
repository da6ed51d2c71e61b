"""review over HTTP: parse, one use case, answer."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from services.review import repository, schemas, usecases
from services.review.domain import ApprovalStatus
from services.review.schemas import ApprovalList, ApprovalView, ReviewPage, ReviewView, review_view
from services.review.usecases import Desk
from shared.database.engine import Database, Transaction
from shared.errors import NotFound
from shared.http.auth import DoorFirst, Principal, allow
from shared.http.fields import RequestModel
from shared.http.idempotency import IdempotencyKey, answer_once
from shared.http.keys import Role
from shared.http.paging import Limit
from shared.http.problems import Problem
from shared.http.references import TicketReference, ticket_reference

Reviewer = Annotated[Principal, Depends(allow(Role.reviewer, Role.supervisor))]
Supervisor = Annotated[Principal, Depends(allow(Role.supervisor))]
Reader = Annotated[Principal, Depends(allow(Role.reviewer, Role.supervisor, Role.ops))]

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
CONFLICT: dict[int | str, dict[str, Any]] = {404: {"model": Problem}, 409: {"model": Problem}}

Step = Callable[[Desk, Transaction, Principal, str], Awaitable[Any]]
Decision = Callable[[Desk, Transaction, Principal, str, Any], Awaitable[Any]]

# What a reviewer does without saying more, and what needs a request: how the documentation names it, and who does it.
STEPS: tuple[tuple[str, Step, str], ...] = (
    ("claim", usecases.claim, "Take one review"),
    ("release", usecases.release, "Give a claim up"),
    ("opinion", usecases.ask_opinion, "Ask the supervisor for an opinion on a major complaint"),
)
DECISIONS: tuple[tuple[str, type[RequestModel], Decision, str], ...] = (
    ("approve", schemas.Approve, usecases.approve, "Ready to dispatch"),
    ("return", schemas.Return, usecases.give_back, "Back to the agent, with a coded reason and what is missing"),
    ("reclassify", schemas.Reclassify, usecases.reclassify, "Correct category or classes before dispatch"),
    ("merge", schemas.Merge, usecases.merge, "Confirm a duplicate of a ticket still in process"),
)


def routes(desk: Desk, database: Database) -> APIRouter:
    router = APIRouter(route_class=DoorFirst, prefix="/v1", tags=["reviews"])

    async def act(
        http: Request, principal: Principal, key: str | None, work: Callable[[Transaction], Awaitable[Any]]
    ) -> Response:
        async def run(transaction: Transaction) -> ReviewView:
            return review_view(await work(transaction))

        return await answer_once(database, http, principal, key, run)

    @router.get("/reviews", summary="What waits for a person, the most urgent first", response_model=ReviewPage)
    async def queue(principal: Reader, limit: Limit = 50) -> ReviewPage:
        rows, waiting = await database.read(lambda connection: repository.queue(connection, limit))
        return ReviewPage(items=[review_view(row) for row in rows], waiting=waiting)

    @router.post("/reviews:claim", summary="Take the most urgent reviews that nobody holds", response_model=ReviewPage)
    async def claim_next(
        http: Request, request: schemas.ClaimNext, principal: Reviewer, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """A claim lapses by itself, so that a review is never stuck with somebody who went home."""

        async def work(transaction: Transaction) -> ReviewPage:
            rows = await usecases.claim_next(desk, transaction, principal, request.count)
            return ReviewPage(items=[review_view(row) for row in rows], waiting=len(rows))

        return await answer_once(database, http, principal, idempotency_key, work)

    @router.get("/reviews/{reference}", summary="One review", response_model=ReviewView, responses=NOT_FOUND)
    async def review(reference: TicketReference, principal: Reader) -> ReviewView:
        row = await database.read(lambda connection: repository.find(connection, ticket_reference(reference)))
        if row is None:
            raise NotFound("review_not_found", "no review of this ticket")
        return review_view(row)

    def add_step(name: str, step: Step, summary: str) -> None:
        @router.post(
            f"/reviews/{{reference}}/{name}", name=name, summary=summary, response_model=ReviewView, responses=CONFLICT
        )
        async def step_route(
            http: Request, reference: TicketReference, principal: Reviewer, idempotency_key: IdempotencyKey = None
        ) -> Response:
            return await act(http, principal, idempotency_key, lambda tx: step(desk, tx, principal, reference))

    def add_decision(name: str, model: type[RequestModel], decision: Decision, summary: str) -> None:
        @router.post(
            f"/reviews/{{reference}}/{name}", name=name, summary=summary, response_model=ReviewView, responses=CONFLICT
        )
        async def decision_route(
            http: Request,
            reference: TicketReference,
            request: model,  # type: ignore[valid-type]
            principal: Reviewer,
            idempotency_key: IdempotencyKey = None,
        ) -> Response:
            return await act(
                http, principal, idempotency_key, lambda tx: decision(desk, tx, principal, reference, request)
            )

    for step in STEPS:
        add_step(*step)
    for decision in DECISIONS:
        add_decision(*decision)

    @router.get("/approvals", summary="Opinions asked for", response_model=ApprovalList)
    async def list_approvals(
        principal: Reader,
        status: Annotated[ApprovalStatus, Query()] = ApprovalStatus.requested,
        limit: Limit = 50,
    ) -> ApprovalList:
        rows = await database.read(lambda connection: repository.list_approvals(connection, status, limit))
        return ApprovalList(items=[_approval_view(row) for row in rows])

    @router.post(
        "/approvals/{approval_id}/decide", summary="Give the opinion", response_model=ApprovalView, responses=CONFLICT
    )
    async def decide(
        http: Request,
        approval_id: UUID,
        request: schemas.Opinion,
        principal: Supervisor,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        async def work(transaction: Transaction) -> ApprovalView:
            return _approval_view(await usecases.decide_opinion(desk, transaction, principal, approval_id, request))

        return await answer_once(database, http, principal, idempotency_key, work)

    return router


def _approval_view(row: Any) -> ApprovalView:
    return ApprovalView.model_validate(row, from_attributes=True)

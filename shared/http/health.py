"""Health: is the process alive, and can it do its work? Readiness names every reason why not.

Whatever hangs, an answer comes in little more than 3 s: probes and alarms must not hang with it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import Response

from shared.messaging.patience import within

CHECK_SECONDS = 3.0

Check = Callable[[], Coroutine[Any, Any, str | None]]
"""Gives the reason why the part is not ready, or None."""


class Liveness(BaseModel):
    status: str = "alive"


class Readiness(BaseModel):
    """`checks` maps each part to "ok" or to the reason why it is not; `warnings` do not make it unready."""

    status: str
    checks: dict[str, str]
    warnings: list[str] = []


async def answers(checks: Mapping[str, Check]) -> dict[str, str | None]:
    """What each part says, asked side by side; of one that hangs, that it gave no answer."""

    async def ask(check: Check) -> str | None:
        try:
            return await within(CHECK_SECONDS, check())
        except TimeoutError:
            return f"no answer within {CHECK_SECONDS:.0f} s"

    return dict(zip(checks, await asyncio.gather(*map(ask, checks.values())), strict=True))


def health_routes(checks: dict[str, Check], warnings: Callable[[], list[str]] = list) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health/live", summary="The process is alive", response_model=Liveness)
    async def live() -> Liveness:
        return Liveness()

    @router.get(
        "/health/ready",
        summary="The service can do its work; 503 with the reasons otherwise",
        responses={200: {"model": Readiness}, 503: {"model": Readiness}},
    )
    async def ready() -> Response:
        results = {name: reason or "ok" for name, reason in (await answers(checks)).items()}
        well = all(result == "ok" for result in results.values())
        body = Readiness(status="ready" if well else "not_ready", checks=results, warnings=warnings())
        return Response(
            orjson.dumps(body.model_dump()), status_code=200 if well else 503, media_type="application/json"
        )

    return router


def metrics_route() -> Response:
    """The metrics in the Prometheus text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

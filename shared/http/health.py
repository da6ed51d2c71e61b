"""Health: is the process alive, and can it do its work? Readiness names every reason why not.

Whatever hangs, an answer comes in little more than 3 s: probes and alarms must not hang with it.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import Response

from shared.messaging.patience import within

CHECK_SECONDS = 3.0
FRESH_SECONDS = 1.0
SERVING = "database"

Check = Callable[[], Coroutine[Any, Any, str | None]]
"""Gives the reason why the part is not ready, or None."""


class Liveness(BaseModel):
    status: str = "alive"


class Readiness(BaseModel):
    """`checks` maps each part to "ok" or to the reason why it is not; `warnings` do not make it unready."""

    status: str
    checks: dict[str, str]
    warnings: list[str] = []


class Checkup:
    """The parts of readiness and what they last said. However many ask, the parts are asked once a second at most: the
    route is open, and the questions use the database."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._asking = asyncio.Lock()
        self._asked_at = -FRESH_SECONDS
        self._said: dict[str, str | None] = {}

    async def answers(self) -> dict[str, str | None]:
        """What each part says, asked side by side; of one that hangs, that it gave no answer."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= FRESH_SECONDS:
                found = await asyncio.gather(*(_ask(check) for check in self._checks.values()))
                self._said = dict(zip(self._checks, found, strict=True))
                self._asked_at = time.monotonic()
            return self._said


async def _ask(check: Check) -> str | None:
    try:
        return await within(CHECK_SECONDS, check())
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:.0f} s"


def health_routes(checkup: Checkup, warnings: Callable[[], list[str]] = list) -> APIRouter:
    router = APIRouter(tags=["health"])
    answer: dict[int | str, dict[str, Any]] = {200: {"model": Readiness}, 503: {"model": Readiness}}

    @router.get("/health/live", summary="The process is alive", response_model=Liveness)
    async def live() -> Liveness:
        return Liveness()

    @router.get("/health/ready", summary="The service can do all its work; 503 with the reasons", responses=answer)
    async def ready() -> Response:
        return _readiness(await checkup.answers(), warnings())

    @router.get("/health/serving", summary="It can answer requests: its database is there", responses=answer)
    async def serving() -> Response:
        """For load balancers. Requests are taken while the broker is away or events wait; `ready` is for alarms."""
        said = await checkup.answers()
        return _readiness({SERVING: said.get(SERVING)}, [])

    return router


def _readiness(said: Mapping[str, str | None], warnings: list[str]) -> Response:
    well = not any(said.values())
    body = Readiness(
        status="ready" if well else "not_ready",
        checks={name: reason or "ok" for name, reason in said.items()},
        warnings=warnings,
    )
    return Response(orjson.dumps(body.model_dump()), status_code=200 if well else 503, media_type="application/json")


def metrics_route() -> Response:
    """The metrics in the Prometheus text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

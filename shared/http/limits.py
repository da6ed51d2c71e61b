"""ASGI guards around every request: body size, trace context, metrics. Plain ASGI: nothing is buffered twice."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.exceptions import HTTPException

from shared.http.problems import problem
from shared.telemetry import metrics
from shared.telemetry.tracing import begin_trace

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_LIMIT_BYTES = 256 * 1024


class BodyTooLarge(HTTPException):
    """The client sent more than the limit. An `HTTPException`, so that FastAPI passes it on while it reads a body."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body may have at most {limit} bytes", headers={"Connection": "close"})


class Guard:
    """Refuse bodies over the limit with 413 before they are read, carry the trace, count and time every answer."""

    def __init__(self, app: ASGIApp, limit_bytes: int = BODY_LIMIT_BYTES) -> None:
        self._app = app
        self._limit = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        declared = traceparent = None
        for name, value in scope["headers"]:
            if name == b"content-length":
                declared = value
            elif name == b"traceparent":
                traceparent = value.decode("latin-1")
        begin_trace(traceparent)
        status = 500
        begun = False
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._limit:
                    raise BodyTooLarge(self._limit)
            return message

        async def noted(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun = True
                status = message["status"]
            await send(message)

        try:
            if declared is not None and declared.isdigit() and int(declared) > self._limit:
                raise BodyTooLarge(self._limit)
            await self._app(scope, counted, noted)
        except BodyTooLarge as error:
            if not begun:
                answer = problem(413, "body_too_large", error.detail, headers=dict(error.headers or {}))
                await answer(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            _counter(scope["method"], route, status).inc()
            _histogram(route).observe(time.perf_counter() - started)


@cache
def _counter(method: str, route: str, status: int) -> Counter:
    return metrics.http_requests.labels(method, route, str(status))


@cache
def _histogram(route: str) -> Histogram:
    return metrics.http_seconds.labels(route)

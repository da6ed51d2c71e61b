"""The door of a service: what it bears of clients, and the ASGI guard around every request.

The guard (plain ASGI, nothing is buffered twice) holds what concerns whole requests: their number at once, size and
depth of bodies, trace context, metrics. `shared.http.protocol` holds what concerns connections: time, headers, number.
"""

import re
import resource
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from prometheus_client import Counter, Histogram

from shared.http.problems import Refused, problem, unavailable
from shared.http.rate import STANDING
from shared.settings import ServiceSettings
from shared.telemetry import metrics
from shared.telemetry.tracing import begin_trace

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_LIMIT_BYTES = 256 * 1024
JSON_DEPTH = 32
# Refused connections that may wait at once to read their 503; more are dropped without a word.
REFUSED_AT_ONCE = 100
# What a process opens besides its clients' connections: databases, the broker, logs.
OTHER_FILES = 200

# A string is stepped over as a whole, closed or not, so that the scan takes one step a token and never goes back.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process bears. `streamed` maps the paths whose body is read as it comes to their limit in bytes."""

    connections: int = 1000
    requests: int = 500
    header_seconds: float = 10.0
    body_idle_seconds: float = 15.0
    body_seconds: float = 30.0
    unread_seconds: float = 30.0
    linger_seconds: float = 2.0
    streamed: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: ServiceSettings, streamed: Mapping[str, int]) -> "Limits":
        return cls(
            connections=settings.http_connection_limit,
            requests=settings.http_request_limit,
            header_seconds=settings.http_header_seconds,
            body_idle_seconds=settings.http_body_idle_seconds,
            body_seconds=settings.http_body_seconds,
            unread_seconds=settings.http_unread_seconds,
            streamed=streamed,
        )


def allow_files(limits: Limits) -> None:
    """Raise this process's limit of open files, as far as it may, to what the connections need and some more."""
    needed = limits.connections + REFUSED_AT_ONCE + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def too_deep(body: bytes) -> bool:
    """Whether JSON nests deeper than `JSON_DEPTH`; what is no JSON is left to the parser."""
    if body.count(b"[") + body.count(b"{") <= JSON_DEPTH:
        return False
    depth = 0
    for match in _TOKENS.finditer(body):
        token = body[match.start()]
        if token in b"[{":
            depth += 1
            if depth > JSON_DEPTH:
                return True
        elif token in b"]}":
            depth -= 1
    return False


def body_too_large(limit: int) -> Refused:
    return Refused(413, "body_too_large", f"the body may have at most {limit} bytes", {"Connection": "close"})


class Guard:
    """Refuse what is too much before it is read, carry the trace, count and time every answer."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._running = 0

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

        async def noted(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun = True
                status = message["status"]
                if (standing := scope.get(STANDING)) is not None:
                    message["headers"] = [*message.get("headers", ()), *standing]
            await send(message)

        self._running += 1
        try:
            # A probe is let in, so that a busy process is not taken for a dead one.
            if self._running > self._limits.requests and scope["path"] != "/health/live":
                await unavailable("too many requests at once; try again", "overloaded")(scope, receive, noted)
                return
            try:
                await self._app(scope, self._bounded(scope["path"], declared, receive), noted)
            except Refused as error:
                if not begun:
                    answer = problem(error.status_code, error.code, error.detail, headers=dict(error.headers or {}))
                    await answer(scope, receive, noted)
        finally:
            self._running -= 1
            route = getattr(scope.get("route"), "path", "none")
            _counter(scope["method"], route, status).inc()
            _histogram(route).observe(time.perf_counter() - started)

    def _bounded(self, path: str, declared: bytes | None, receive: Receive) -> Receive:
        """`receive`, but for at most as many bytes as this path may take, and for JSON that is not too deep."""
        streamed = self._limits.streamed.get(path)
        limit = streamed or BODY_LIMIT_BYTES
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise body_too_large(limit)
        received = 0
        parts: list[bytes] = []

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                body = message.get("body", b"")
                received += len(body)
                if received > limit:
                    raise body_too_large(limit)
                if not streamed:
                    parts.append(body)
                    if not message.get("more_body", False) and too_deep(b"".join(parts)):
                        raise Refused(400, "json_too_deep", f"JSON may nest at most {JSON_DEPTH} levels deep")
            return message

        return bounded


@cache
def _counter(method: str, route: str, status: int) -> Counter:
    return metrics.http_requests.labels(method, route, str(status))


@cache
def _histogram(route: str) -> Histogram:
    return metrics.http_seconds.labels(route)

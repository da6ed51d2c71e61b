"""uvicorn's HTTP/1.1 protocol with an end to every wait for a client, and to how many clients there are.

uvicorn itself waits for ever for headers, for a body, and for a client that does not read. Here each connection knows
by when its client must have done something; a timer runs only while something is owed, so that an ordinary request,
which arrives in one piece, sets none. `shared.service` hands `bounded(...)` to uvicorn.
"""

import asyncio
import itertools
from collections import deque
from enum import Enum, auto
from typing import Any, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shared.http.limits import BODY_LIMIT_BYTES, REFUSED_AT_ONCE, Limits
from shared.http.problems import RETRY_AFTER_SECONDS, problem
from shared.telemetry import metrics

HEADER_LIMIT_BYTES = 16 * 1024
PIPELINED = 16
# What chunk sizes, extensions and trailers may take: they are no body, so the body's limit does not see them.
FRAMING_BYTES = 16 * 1024
FRAMING_BYTES_PER_BODY_BYTE = 16
_HEAD = b"HTTP/1.1 "
# The pace at which a streamed body must come at least, on average.
STREAMED_BYTES_PER_SECOND = 64


class Phase(Enum):
    """What the client owes: `quiet` nothing, `leaving` only to read our last words."""

    quiet = auto()
    headers = auto()
    body = auto()
    leaving = auto()


class _Stop(Exception):
    """Raised inside the parser to stop it; the protocol's `_reason` says why."""


class _Flow(FlowControl):
    """Flow control that knows since when the client may send: while we read nothing it cannot be late."""

    resumed_at = 0.0

    def resume_reading(self) -> None:
        if self.read_paused:
            self.resumed_at = asyncio.get_running_loop().time()
        super().resume_reading()


class _Exit:
    """The transport as uvicorn sees it: closing lets the client read what was said before the socket goes.

    uvicorn writes the head of an answer and its body apart, and uvloop sends at once what it is given. A head waits for
    the body that follows in the same step, which saves a system call, and the client one, in each answer.
    """

    def __init__(self, transport: asyncio.Transport, protocol: "BoundedProtocol") -> None:
        self._protocol = protocol
        self._write = transport.write
        self._head = b""

    def write(self, data: bytes) -> None:
        # uvicorn tells only the last of several pipelined requests that the client is gone; uvloop then raises.
        if self._protocol.leaving:
            return
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD):
            self._head = data
            self._protocol.loop.call_soon(self.flush)
            return
        self._write(data)

    def flush(self) -> None:
        """Send a head whose body does not follow at once."""
        head, self._head = self._head, b""
        if head and not self._protocol.leaving:
            self._write(head)

    def close(self) -> None:
        self.flush()
        self._protocol.leave(linger=False)

    def is_closing(self) -> bool:
        return self._protocol.leaving


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Every refusal is a problem document (RFC 9457) where the client can still be answered."""

    limits = Limits()

    # ---- connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        super().connection_made(self._socket)
        self.transport = cast(asyncio.Transport, _Exit(self._socket, self))
        self.flow = self._pace = _Flow(self._socket)
        self._phase = Phase.headers
        self._began = self._heard = self.loop.time()
        self._raw = self._body = 0
        self._unread_since: float | None = None
        self._left_at = 0.0
        self._reason = _NOT_HTTP
        self._timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.limits.connections + REFUSED_AT_ONCE:
            metrics.http_refused.labels("connections").inc()
            self._socket.abort()
        elif len(self.connections) > self.limits.connections:
            self._refuse(503, "too_many_connections", "too many connections are open; try again")
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = Phase.leaving
        if self._timer is not None:
            self._timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    @property
    def leaving(self) -> bool:
        return self._phase is Phase.leaving or self._socket.is_closing()

    def leave(self, *, linger: bool) -> None:
        """Close. Where the client may still be sending, read and drop that for a moment: a socket closed with unread
        bytes resets the connection, and the client may lose the answer (RFC 9112, section 9.6)."""
        if self.leaving:
            return
        linger = linger or self._phase is Phase.body
        self._phase = Phase.leaving
        self._left_at = self.loop.time()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if linger and self._socket.can_write_eof():
            self._socket.write_eof()
        else:
            self._socket.close()
        self._watch()

    # ---- what the client sends -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.leaving:
            return
        if self._phase is Phase.quiet:
            self._begin()
        elif self._phase is Phase.body:
            self._heard = self.loop.time()
        self._raw += len(data)
        super().data_received(data)
        if self._phase is Phase.quiet:
            self._wait_for_the_next()
        elif self._phase is Phase.headers and self._raw > HEADER_LIMIT_BYTES:
            self._refuse(*_HEADERS_TOO_LARGE)
        elif self._phase is Phase.body and self._is_wasteful():
            self._refuse(400, "invalid_http", "too little body in too many bytes")
        elif not self.leaving:
            self._watch()

    def _begin(self) -> None:
        self._phase = Phase.headers
        self._began = self.loop.time()
        self._raw = self._body = 0

    def _wait_for_the_next(self) -> None:
        """uvicorn sets the idle timer when an answer ends; here the answer may have ended before its request."""
        if self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _is_wasteful(self) -> bool:
        if self.cycle.response_complete and self._raw > BODY_LIMIT_BYTES:
            return True
        return self._raw - self._body > FRAMING_BYTES + FRAMING_BYTES_PER_BODY_BYTE * self._body

    def on_message_begin(self) -> None:
        if self._phase is Phase.quiet:
            self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(map(len, itertools.chain.from_iterable(self.headers))) + 4 * len(self.headers)
        if size > HEADER_LIMIT_BYTES:
            self._stop(*_HEADERS_TOO_LARGE)
        if len(self.pipeline) >= PIPELINED:
            self._stop(503, "overloaded", "too many requests were sent without waiting for their answers")
        self._phase = Phase.body
        self._heard = self._began = self.loop.time()
        # The header's bytes are no framing of the body.
        self._raw = self._body = 0
        super().on_headers_complete()
        # What uvicorn adds from here on are trailers; nothing reads them, and kept they would grow.
        self.headers = cast(list[tuple[bytes, bytes]], deque(maxlen=0))

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = Phase.quiet
        super().on_message_complete()

    # ---- refusals ------------------------------------------------------------------------------------------------

    def _stop(self, *reason: Any) -> None:
        self._reason = reason
        raise _Stop

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when its parser has stopped."""
        self._refuse(*self._reason)

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer, where that answer cannot be taken for the one to an earlier request, and close."""
        metrics.http_refused.labels(code).inc()
        cycle = self.cycle
        waiting = self._owes_an_answer()
        if waiting:
            cycle.disconnected = True
            cycle.message_event.set()
        if self.pipeline or (waiting and (self._phase is not Phase.body or cycle.response_started)):
            self._socket.abort()
            return
        if waiting or self._phase is Phase.headers:
            self._socket.write(_answer(status, code, detail))
        self.leave(linger=True)

    # ---- time ----------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def _due(self) -> float | None:
        """The moment (of the loop's clock) by which the client must have done something, or None."""
        now, limits, due = self.loop.time(), self.limits, list[float]()
        if self._unread_since is not None:
            due.append(self._unread_since + limits.unread_seconds)
        if self._phase is Phase.leaving:
            soon = self._left_at + limits.linger_seconds
            unsent = now >= soon and self._socket.get_write_buffer_size() > 0
            due.append(self._left_at + limits.unread_seconds if unsent else soon)
        elif self.flow.read_paused or (self._phase is Phase.headers and self._owes_an_answer()):
            # It is not the client that is late; look again later.
            due.append(now + limits.header_seconds)
        elif self._phase is Phase.headers:
            due.append(self._began + limits.header_seconds)
        elif self._phase is Phase.body:
            whole = self._began + limits.body_seconds
            if self.scope["path"] in limits.streamed:
                whole += self._body / STREAMED_BYTES_PER_SECOND
            due += [whole, max(self._heard, self._pace.resumed_at) + limits.body_idle_seconds]
        return min(due, default=None)

    def _owes_an_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """See to it that the timer rings no later than what is due first."""
        due = self._due()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(due, self._look) if due is not None else None

    def _look(self) -> None:
        self._timer = None
        due = self._due()
        if due is None:
            return
        if due > self.loop.time():
            self._watch()
        elif self._phase is Phase.leaving:
            self._socket.abort()
        elif self._unread_since is not None or (self._phase is Phase.headers and self._raw == 0):
            metrics.http_refused.labels("silent" if self._unread_since is None else "unread").inc()
            self._socket.abort()
        else:
            what = "headers" if self._phase is Phase.headers else "body"
            self._refuse(408, "request_timeout", f"the {what} did not arrive in time")


_NOT_HTTP: tuple[Any, ...] = (400, "invalid_http", "this is not HTTP/1.1")
_HEADERS_TOO_LARGE = (431, "headers_too_large", f"address and headers may have at most {HEADER_LIMIT_BYTES} bytes")


def bounded(limits: Limits) -> type[BoundedProtocol]:
    """The protocol with these limits, as `uvicorn.Config(http=...)` takes it."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})


def _answer(status: int, code: str, detail: str) -> bytes:
    """A whole answer, for a client whose request never became one."""
    headers = {"Connection": "close"} | ({"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {})
    document = problem(status, code, detail, headers=headers)
    lines = [name + b": " + value + b"\r\n" for name, value in document.raw_headers]
    return b"".join((STATUS_LINE[status], *lines, b"\r\n", bytes(document.body)))

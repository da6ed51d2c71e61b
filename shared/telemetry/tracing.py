"""The W3C trace context of the work in hand, carried from request to event to request."""

import os
import re
from contextvars import ContextVar

_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)

_W3C = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def current_traceparent() -> str | None:
    return _traceparent.get()


def begin_trace(incoming: str | None = None) -> str:
    """Continue the caller's trace, or begin one. Returns the `traceparent` now in force."""
    value = incoming if incoming is not None and _W3C.fullmatch(incoming) else _fresh()
    _traceparent.set(value)
    return value


def _fresh() -> str:
    random = os.urandom(24).hex()
    return f"00-{random[:32]}-{random[32:]}-01"


def trace_id() -> str | None:
    value = _traceparent.get()
    return value.split("-")[1] if value else None

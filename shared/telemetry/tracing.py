"""The W3C trace context of the work in hand, carried from request to event to request."""

import secrets
from contextvars import ContextVar

_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)

LENGTH = 55


def current_traceparent() -> str | None:
    return _traceparent.get()


def begin_trace(incoming: str | None = None) -> str:
    """Continue the caller's trace, or begin one. Returns the `traceparent` now in force."""
    valid = incoming is not None and len(incoming) == LENGTH and incoming.count("-") == 3
    value = incoming if valid and incoming else f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    _traceparent.set(value)
    return value


def trace_id() -> str | None:
    value = _traceparent.get()
    return value.split("-")[1] if value else None

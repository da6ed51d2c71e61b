"""The W3C trace context of the work in hand, carried from request to event to request."""

import random
import re
from contextvars import ContextVar

_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)

# Traces must be told apart, not be secret: asking the system for random bytes cost a request 5 µs.
_random = random.Random()  # noqa: S311
_W3C = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def current_traceparent() -> str | None:
    return _traceparent.get()


def begin_trace(incoming: str | None = None) -> str:
    """Continue the caller's trace, or begin one. Returns the `traceparent` now in force."""
    value = incoming if incoming is not None and _W3C.fullmatch(incoming) else _fresh()
    _traceparent.set(value)
    return value


def _fresh() -> str:
    return f"00-{_random.getrandbits(128):032x}-{_random.getrandbits(64):016x}-01"


def trace_id() -> str | None:
    value = _traceparent.get()
    return value.split("-")[1] if value else None

"""Named gaps between two durable steps.

In service nothing is armed and `reach` does nothing. The failpoint tests arm a gap and end the process there, on the
first pass and again while it recovers: whatever the moment, nothing may be lost and nothing may happen twice.
"""

from collections.abc import Callable

_armed: dict[str, Callable[[], None]] = {}


def arm(gap: str, action: Callable[[], None]) -> None:
    """Call `action` each time that the gap is reached."""
    _armed[gap] = action


def reach(gap: str) -> None:
    """The work stands between two durable steps now."""
    if _armed and (action := _armed.get(gap)) is not None:
        action()

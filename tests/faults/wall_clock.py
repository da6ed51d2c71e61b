"""A process's wall clock that can be moved while it runs.

A file holds the seconds by which the clock is wrong; it is read again and again. Moved is what Python code of a
service can ask: `time.time`, `time.time_ns` and `datetime.now` where the services use it. The monotonic clock stays, as
it does on a real machine. Business time is the database's, so nothing may come of it.
"""

import contextlib
import datetime as calendar
import threading
import time
from pathlib import Path

import shared.clock
import shared.http.keys

READ_SECONDS = 0.2
NANOSECONDS = 1_000_000_000

_true_time = time.time
_shift = 0.0


class ShiftedDateTime(calendar.datetime):
    @classmethod
    def now(cls, tz: calendar.tzinfo | None = None) -> "ShiftedDateTime":
        return cls.fromtimestamp(time.time(), tz)


def shifted_time() -> float:
    return _true_time() + _shift


def shifted_time_ns() -> int:
    return int(shifted_time() * NANOSECONDS)


def follow(path: Path) -> None:
    """Read the shift again and again."""
    global _shift
    while True:
        with contextlib.suppress(OSError, ValueError):
            _shift = float(path.read_text(encoding="ascii"))
        time.sleep(READ_SECONDS)


def follow_file(path: Path) -> None:
    """Make this process's wall clock follow the file."""
    for module in (shared.clock, shared.http.keys):
        vars(module)["datetime"] = ShiftedDateTime
    time.time, time.time_ns = shifted_time, shifted_time_ns
    threading.Thread(target=follow, args=(path,), name="clock", daemon=True).start()

"""Runs a service inside a process whose wall clock can be moved while it runs.

    python -m tests.faults.child --clock FILE -- services.intake [--roles …]

FILE holds a number of seconds by which this process's clock is wrong; it is read again and again. Moved is what Python
code of a service can ask: `time.time`, `time.time_ns` and `datetime.now` where the services use it. The monotonic clock
stays, as it does on a real machine. Business time is the database's, so nothing may come of it.
"""

import argparse
import contextlib
import datetime as calendar
import runpy
import sys
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


def move_clock(path: Path) -> None:
    """Make this process's wall clock follow the file."""
    for module in (shared.clock, shared.http.keys):
        vars(module)["datetime"] = ShiftedDateTime
    time.time, time.time_ns = shifted_time, shifted_time_ns
    threading.Thread(target=follow, args=(path,), name="clock", daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.child")
    parser.add_argument("--clock", type=Path, help="file with the seconds by which the clock is wrong")
    parser.add_argument("module")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.clock:
        move_clock(arguments.clock)
    sys.argv = [arguments.module, *arguments.words]
    runpy.run_module(arguments.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

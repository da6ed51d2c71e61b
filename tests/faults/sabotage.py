"""A real program with a fault built in, for the fault tests.

    python -m tests.faults.sabotage [--kill-at GAP[:NTH]] [--plant BUG] [--clock FILE] services.review [arguments]

`--kill-at` ends the process as `kill -9` would when a gap of `shared/failpoints.py` is reached for the n-th time;
`--plant` puts one of the bugs of `planted.py` into it; `--clock` lets a file move its wall clock.
"""

import argparse
import itertools
import os
import runpy
import signal
import sys
from pathlib import Path

from shared import failpoints
from tests.faults import wall_clock
from tests.faults.planted import PLANTS


def kill_at(gap: str, nth: int) -> None:
    passes = itertools.count(1)

    def action() -> None:
        if next(passes) >= nth:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.arm(gap, action)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.sabotage")
    parser.add_argument("--kill-at", metavar="GAP[:NTH]")
    parser.add_argument("--plant", choices=sorted(PLANTS))
    parser.add_argument("--clock", type=Path, metavar="FILE")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.kill_at:
        gap, _, nth = given.kill_at.partition(":")
        kill_at(gap, int(nth or 1))
    if given.plant:
        PLANTS[given.plant]()
    if given.clock:
        wall_clock.follow_file(given.clock)
    sys.argv = [given.module, *given.arguments]
    runpy.run_module(given.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

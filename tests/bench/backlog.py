"""Whether a backlog grows, and the highest rate at which it does not.

A curve is a row of (seconds, tickets accepted, orders seen); the backlog is the difference of the last two. A pipeline
that keeps up has a backlog of rate times latency, which goes up and down; one that does not has one that climbs.
"""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from itertools import combinations

Sample = tuple[float, int, int]

SETTLED_SECONDS = 1.5
# Of the rate: a backlog that climbs by more is growing. Below it, the climb cannot be told from going up and down.
TOLERATED_SLOPE = 0.03
# Of the rate asked for: a run that was answered for less was not run at that rate.
TOLERATED_SHORTFALL = 0.03
STEP = 1.15


def slope(curve: Sequence[Sample], until_seconds: float, from_seconds: float = SETTLED_SECONDS) -> float:
    """Tickets a second by which the backlog grows: the median of the slopes between all pairs of samples (Theil–Sen),
    which a single stall does not move. 0 when there are fewer than two samples in that time."""
    points = [(at, accepted - seen) for at, accepted, seen in curve if from_seconds <= at <= until_seconds]
    slopes = [(after - before) / (late - early) for (early, before), (late, after) in combinations(points, 2)]
    return statistics.median(slopes) if slopes else 0.0


def holds(curve: Sequence[Sample], asked: float, answered: float, until_seconds: float) -> bool:
    """Whether the platform kept up with `asked` tickets a second, of which `answered` a second were accepted."""
    if answered < asked * (1 - TOLERATED_SHORTFALL):
        return False
    return slope(curve, until_seconds) <= asked * TOLERATED_SLOPE


async def highest(trial: Callable[[float], Awaitable[tuple[bool, float]]], first: float, trials: int) -> float:
    """The highest rate found to hold in so many trials, 0 if none did.

    A trial says whether the rate held and which rate was answered. From `first` it goes up by steps, or down to what
    was answered, until one rate holds and one does not; then by halves between them.
    """
    held, failed, rate = 0.0, float("inf"), first
    for _ in range(trials):
        kept_up, answered = await trial(rate)
        if kept_up:
            held = max(held, rate)
        else:
            failed = min(failed, rate)
        if not held:
            rate = less(failed, answered)
        elif failed == float("inf"):
            rate = held * STEP
        else:
            rate = (held + failed) / 2
    return held


def less(asked: float, answered: float) -> float:
    """The rate to try after one that did not hold: a step below it, or below what was answered if that is less."""
    return min(asked / STEP, answered * (1 - 2 * TOLERATED_SHORTFALL))

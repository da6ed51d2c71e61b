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
# A backlog goes up and down by what comes in this time; over a short run that alone can look like a climb.
RIPPLE_SECONDS = 0.15
# Of the rate asked for: a run that was answered for less was not run at that rate.
TOLERATED_SHORTFALL = 0.03
STEP = 1.15


def growth(curve: Sequence[Sample], until_seconds: float) -> float:
    """Tickets a second by which the backlog grows, from when the pipeline is filled until then."""
    return _slope([(at, accepted - seen) for at, accepted, seen in _settled(curve, until_seconds)])


def answered(curve: Sequence[Sample], until_seconds: float) -> float:
    """Tickets a second that were accepted in the same time."""
    return _slope([(at, accepted) for at, accepted, _ in _settled(curve, until_seconds)])


def holds(curve: Sequence[Sample], asked: float, until_seconds: float) -> bool:
    """Whether the platform kept up with `asked` tickets a second: took them in, and sent them on."""
    if answered(curve, until_seconds) < asked * (1 - TOLERATED_SHORTFALL):
        return False
    tolerated = max(TOLERATED_SLOPE, RIPPLE_SECONDS / max(until_seconds - SETTLED_SECONDS, SETTLED_SECONDS))
    return growth(curve, until_seconds) <= asked * tolerated


def _settled(curve: Sequence[Sample], until_seconds: float) -> list[Sample]:
    return [sample for sample in curve if SETTLED_SECONDS <= sample[0] <= until_seconds]


def _slope(points: Sequence[tuple[float, int]]) -> float:
    """The median of the slopes between all pairs (Theil–Sen), which a single stall does not move; 0 for under two."""
    slopes = [(after - before) / (late - early) for (early, before), (late, after) in combinations(points, 2)]
    return statistics.median(slopes) if slopes else 0.0


async def highest(trial: Callable[[float], Awaitable[tuple[bool, float]]], first: float, trials: int) -> float:
    """The highest rate found to hold in so many trials, 0 if none did.

    A trial says whether the rate held and which rate was answered. From `first` it goes up by steps, or down to what
    was answered, until one rate holds and one does not; then by halves between them.
    """
    held, failed, rate = 0.0, float("inf"), first
    for _ in range(trials):
        kept_up, taken = await trial(rate)
        if kept_up:
            held = max(held, rate)
        else:
            failed = min(failed, rate)
        if not held:
            rate = less(failed, taken)
        elif failed == float("inf"):
            rate = held * STEP
        else:
            rate = (held + failed) / 2
    return held


def less(asked: float, taken: float) -> float:
    """The rate to try after one that did not hold: a step below it, or below what was answered if that is less."""
    return min(asked / STEP, taken * (1 - 2 * TOLERATED_SHORTFALL))

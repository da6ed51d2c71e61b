"""What a part of the benchmark finds: figures with one value a round, judged by their medians.

A figure that has a floor is shown as the ratio of the two in the same round, so that a machine that is slow for a
minute slows both. Nothing here measures; everything here is computed.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Spread:
    """Median, least and most of the rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Target:
    """What a figure should be: at least or at most the limit, itself or (`of`) as the ratio to its floor."""

    bound: Literal["at least", "at most"]
    limit: float
    of: Literal["value", "ratio"] = "value"


@dataclass(frozen=True)
class Figure:
    """One line of the table. `values` and `floor` have one entry a round, in the same order; `unit` is theirs."""

    name: str
    unit: str
    values: Sequence[float]
    floor: Sequence[float] = ()
    floor_name: str = ""
    target: Target | None = None

    @property
    def ratios(self) -> list[float]:
        """Value over floor, round by round; empty without a floor. A round whose floor is 0 is left out."""
        if not self.floor:
            return []
        return [value / floor for value, floor in zip(self.values, self.floor, strict=True) if floor]

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without a target, or when nothing was measured."""
        if self.target is None:
            return None
        judged = self.ratios if self.target.of == "ratio" else list(self.values)
        if not judged:
            return None
        median = statistics.median(judged)
        return median >= self.target.limit if self.target.bound == "at least" else median <= self.target.limit


@dataclass(frozen=True)
class Cpu:
    """CPU milliseconds a ticket (user and system, from the operating system) by process, one entry a round."""

    name: str
    rounds: Sequence[Mapping[str, float]]

    def spread(self, process: str) -> Spread:
        return spread(each[process] for each in self.rounds)

    @property
    def processes(self) -> list[str]:
        return list(self.rounds[0]) if self.rounds else []


@dataclass
class Findings:
    """All that a part found. `facts` goes into the JSON only (curves, sizes); `notes` are said below the table."""

    figures: list[Figure] = field(default_factory=list)
    cpu: list[Cpu] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def spread(values: Iterable[float]) -> Spread:
    """Raises `ValueError` when there are no values."""
    known = list(values)
    if not known:
        raise ValueError("no round, no spread")
    return Spread(statistics.median(known), min(known), max(known))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that at least this share of all values does not exceed (nearest rank); 0 for none.

    `ordered` is sorted; `share` is between 0 and 1.
    """
    if not ordered:
        return 0.0
    rank = -int(-share * len(ordered) // 1)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def percentiles_ms(seconds: Iterable[float], shares: Sequence[float] = (0.5, 0.95, 0.99)) -> dict[str, float]:
    """`p50`, `p95`, … and `max` of durations given in seconds, in milliseconds."""
    ordered = sorted(seconds)
    named = {f"p{share * 100:g}": percentile(ordered, share) * 1000 for share in shares}
    return {**named, "max": (ordered[-1] if ordered else 0.0) * 1000}


def milliseconds_a_ticket(
    before: Mapping[str, float], after: Mapping[str, float], tickets: int, processes: Iterable[str] | None = None
) -> dict[str, float]:
    """CPU milliseconds a ticket from two readings in CPU seconds; of all processes or of those named."""
    names = list(after if processes is None else processes)
    return {name: (after[name] - before[name]) * 1000 / max(tickets, 1) for name in names}

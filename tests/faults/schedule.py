"""The plan of a run: which fault strikes what, when and for how long, all decided by a seed.

A plan is made before anything runs. Faults of a plan may overlap; what must not (two faults on one program) is put in
order by who carries them out.
"""

import random
from dataclasses import dataclass
from typing import Any

from deploy.local.state import SERVICES
from shared.contracts.topics import DISPATCH, INTAKE, REVIEW, SLA
from tests.faults.proxy import KINDS as NETWORK_KINDS
from tests.faults.stack import APART

CALM_SECONDS = 5.0
"""At the beginning, before the first fault."""

# An hour and a day either way, and a small step back, as a time service makes it.
CLOCK_SHIFTS = (3600.0, -3600.0, 86400.0, -86400.0, -5.0)
RELAYS = ("dispatch-relay", "sla-relay")


@dataclass(frozen=True)
class Dose:
    """How often a fault strikes in a run, and the bounds of its length in seconds. `size` is the fault's own measure:
    sessions ended, records sent, clients opened."""

    times: int
    shortest: float = 0.0
    longest: float = 0.0
    size: int = 0


@dataclass(frozen=True)
class Course:
    """The doses of one kind of run. `seconds` is the time in which faults begin and end; `disk_megabytes` is room for
    the data of all its tickets, which come to about 0.1 MB each at their worst."""

    seconds: float
    disk_megabytes: int
    doses: dict[str, Dose]


@dataclass(frozen=True)
class Step:
    """One fault of a plan. `at` is in seconds from the beginning of the plan."""

    at: float
    kind: str
    target: str
    seconds: float
    size: int
    detail: Any = None


COURSES = {
    "smoke": Course(
        12.0,
        600,
        {
            "kill": Dose(6),
            "freeze": Dose(1, 3, 4),
            "network": Dose(2, 2, 3),
            "duplicates": Dose(1),
            "poison": Dose(1),
        },
    ),
    "ci": Course(
        150.0,
        800,
        {
            "kill": Dose(34),
            "freeze": Dose(6, 3, 10),
            "broker_kill": Dose(2),
            "broker_restart": Dose(2, 1, 6),
            "database_kill": Dose(1),
            "database_restart": Dose(1),
            "sessions": Dose(2, size=20),
            "network": Dose(12, 3, 8),
            "disk_full": Dose(1, 5, 8),
            "slow_disk": Dose(1, 8, 12),
            "clock": Dose(5, 5, 15),
            "duplicates": Dose(1),
            "reorder": Dose(2, 4, 6),
            "poison": Dose(2),
            "replay": Dose(1),
            "long_transaction": Dose(1, 15, 25),
            "slow_clients": Dose(1, 15, 20, size=60),
        },
    ),
    "nightly": Course(
        3300.0,
        6000,
        {
            "kill": Dose(340),
            "freeze": Dose(30, 5, 40),
            "broker_kill": Dose(20),
            "broker_restart": Dose(20, 2, 20),
            "database_kill": Dose(10),
            "database_restart": Dose(10),
            "sessions": Dose(10, size=20),
            "network": Dose(60, 5, 60),
            "disk_full": Dose(2, 10, 30),
            "slow_disk": Dose(10, 60, 60),
            "clock": Dose(20, 10, 60),
            "duplicates": Dose(2),
            "reorder": Dose(40, 5, 8),
            "poison": Dose(36),
            "replay": Dose(3),
            "long_transaction": Dose(2, 600, 600),
            "slow_clients": Dose(5, 60, 60, size=500),
        },
    ),
}

# What each kind can strike. A kind that strikes the whole has one target.
TARGETS: dict[str, tuple[str, ...]] = {
    "kill": tuple(APART),
    "freeze": tuple(APART),
    "broker_kill": ("kafka",),
    "broker_restart": ("kafka",),
    "database_kill": ("postgres",),
    "database_restart": ("postgres",),
    "sessions": ("postgres",),
    "network": ("postgres", "kafka", *SERVICES),
    "disk_full": ("postgres",),
    "slow_disk": ("postgres",),
    "clock": tuple(APART),
    "duplicates": ("topics",),
    "reorder": RELAYS,
    "poison": ("topics",),
    "replay": (INTAKE, REVIEW, DISPATCH, SLA),
    "long_transaction": SERVICES,
    "slow_clients": SERVICES,
}


def plan(course: Course, seed: int) -> list[Step]:
    """The faults of a run in the order of their beginning. The same seed gives the same plan.

    Targets and kinds of network trouble are dealt like cards, so that each has its turn however few there are.
    """
    chance = random.Random(f"plan {seed}")
    steps = []
    for kind, dose in course.doses.items():
        targets = _dealt(chance, TARGETS[kind], dose.times)
        details = _dealt(chance, _details(kind), dose.times)
        for target, detail in zip(targets, details, strict=True):
            seconds = chance.uniform(dose.shortest, dose.longest)
            at = chance.uniform(CALM_SECONDS, max(CALM_SECONDS, course.seconds - seconds))
            steps.append(Step(round(at, 2), kind, target, round(seconds, 2), dose.size, detail))
    return sorted(steps, key=lambda step: (step.at, step.kind, step.target))


def _details(kind: str) -> tuple[Any, ...]:
    if kind == "network":
        return NETWORK_KINDS
    return CLOCK_SHIFTS if kind == "clock" else (None,)


def _dealt(chance: random.Random, cards: tuple[Any, ...], times: int) -> list[Any]:
    dealt: list[Any] = []
    while len(dealt) < times:
        dealt += chance.sample(cards, len(cards))
    return dealt[:times]

"""The plan of the random faults: decided by the seed, complete, and within its time."""

from collections import Counter

import pytest

from tests.faults.faults import KINDS
from tests.faults.proxy import KINDS as NETWORK_KINDS
from tests.faults.schedule import COURSES, TARGETS, plan
from tests.faults.stack import APART, roles_of

KILLS_AN_HOUR = 300
KILLS_A_ROLE = 40


@pytest.mark.parametrize("dose", COURSES)
def test_the_same_seed_gives_the_same_plan(dose: str) -> None:
    assert plan(COURSES[dose], 7) == plan(COURSES[dose], 7)
    assert plan(COURSES[dose], 7) != plan(COURSES[dose], 8)


def test_a_plan_does_not_change_under_a_seed_that_somebody_noted() -> None:
    first = plan(COURSES["ci"], 1)[0]
    assert (first.at, first.kind, first.target, first.seconds) == (5.96, "kill", "sla-relay", 0.0)


@pytest.mark.parametrize("dose", ["ci", "nightly"])
@pytest.mark.parametrize("seed", range(20))
def test_every_fault_and_every_kind_of_network_trouble_occurs(dose: str, seed: int) -> None:
    steps = plan(COURSES[dose], seed)
    assert {step.kind for step in steps} == set(KINDS)
    assert {step.detail for step in steps if step.kind == "network"} == set(NETWORK_KINDS)
    assert {step.target for step in steps if step.kind == "kill"} == set(APART)
    assert {step.target for step in steps if step.kind == "network"} == set(TARGETS["network"])


@pytest.mark.parametrize("dose", COURSES)
def test_every_fault_ends_within_the_course(dose: str) -> None:
    course = COURSES[dose]
    assert all(0 < step.at and step.at + step.seconds <= course.seconds + 0.01 for step in plan(course, 3))


def test_the_doses_are_those_asked_for() -> None:
    ci = Counter(step.kind for step in plan(COURSES["ci"], 5))
    assert ci["kill"] >= 30
    night = plan(COURSES["nightly"], 5)
    assert Counter(step.kind for step in night)["kill"] >= KILLS_AN_HOUR
    roles = Counter(role for step in night if step.kind == "kill" for role in roles_of(step.target))
    assert min(roles.values()) >= KILLS_A_ROLE
    assert set(roles) == {"api", "consumer", "relay", "jobs"}

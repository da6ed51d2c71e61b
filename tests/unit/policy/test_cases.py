"""Every case of the pack's `cases.yaml`, through the functions that the services call."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from shared.contracts.ticket import Basis, TicketSnapshot
from shared.policy import (
    Complaint,
    after_callback,
    assess,
    batch_members,
    check,
    clock_changes,
    clock_due,
    closing,
    is_appeal,
    limits,
    on_time,
    route,
)
from shared.policy.reading import PACKS, parse
from tests.unit.policy.tickets import NOW, PACK, at, calendar, pack, ticket

FILE: Mapping[str, Any] = parse((PACKS / PACK / "cases.yaml").read_text(encoding="utf-8"), "cases.yaml")[0]
Situation = Mapping[str, Any]
Answer = dict[str, Any]


def _rules(basis: Basis) -> set[str]:
    assert basis.pack == PACK
    assert basis.version == pack().version
    return set(basis.rules)


def _assess(given: TicketSnapshot, situation: Situation) -> Answer:
    found = assess(pack(), given)
    return {"kind": found.kind, "urgency": found.urgency.code, "classes": [mark.code for mark in found.classes]}


def _review(given: TicketSnapshot, situation: Situation) -> Answer:
    verdict = check(pack(), assess(pack(), given), round=situation.get("round", 1))
    return {
        "outcome": verdict.outcome,
        "reason_code": verdict.reason_code,
        "missing": list(verdict.missing),
        "proposals": [finding.proposal for finding in verdict.findings],
        "message_zh": verdict.findings[0].message_zh if verdict.findings else None,
        "rules": _rules(verdict.basis),
    }


def _route(given: TicketSnapshot, situation: Situation) -> Answer:
    found = route(pack(), assess(pack(), given), **situation)
    return {
        "branch": found.branch,
        "unit": found.unit,
        "complaint_city": found.complaint_city,
        "category": found.category,
        "redispatch": found.redispatch,
        "rules": _rules(found.basis),
    }


def _changes(given: TicketSnapshot, situation: Situation) -> Answer:
    changes = clock_changes(pack(), situation["event_type"], assess(pack(), given), situation["event"])
    return {"start": [spec.kind for spec in changes.start], "stop": list(changes.stop)}


def _clock(given: TicketSnapshot, situation: Situation) -> Answer:
    spec = pack().clock_by_kind[situation["kind"]]
    due = clock_due(pack(), spec, given, at(situation["started_at"]), calendar())
    answer: Answer = {"due_at": due.due_at, "rule": due.rule, "soft": spec.soft, "on_breach": spec.on_breach}
    if "stopped_at" in situation:
        answer["on_time"] = on_time(spec, due.due_at, at(situation["stopped_at"]))
    return answer


def _callback(given: TicketSnapshot, situation: Situation) -> Answer:
    found = after_callback(pack(), ticket=assess(pack(), given), **situation)
    return {"action": found.action, "rules": _rules(found.basis)}


def _closing(given: TicketSnapshot, situation: Situation) -> Answer:
    seconds = situation.get("handling_seconds", situation.get("handling_hours", 0) * 3600)
    found = closing(
        pack(),
        assess(pack(), given),
        outcome=situation["outcome"],
        accepted_at=NOW,
        closed_at=NOW + timedelta(seconds=seconds),
    )
    return {
        "reported_outcome": found.reported_outcome,
        "notices": list(found.notices),
        "follow_up": found.follow_up,
        "rules": _rules(found.basis),
    }


def _batch(given: TicketSnapshot, situation: Situation) -> Answer:
    count = situation["ordinary"] + situation["vip"]
    step = timedelta(minutes=situation["minutes"]) / (count - 1)
    complaints = [Complaint(UUID(int=i + 1), f"c{i}", i >= situation["ordinary"], NOW + step * i) for i in range(count)]
    return {"members": len(batch_members(pack(), complaints))}


def _appeal(given: TicketSnapshot, situation: Situation) -> Answer:
    return {"appeal": is_appeal(pack(), at(situation["earlier"]), at(situation["now"]))}


def _limits(given: TicketSnapshot, situation: Situation) -> Answer:
    found = limits(pack(), assess(pack(), given), calendar())
    return {each.kind: [each.rule, (each.due_at - given.accepted_at) / timedelta(hours=1)] for each in found}


STAGES: Mapping[str, Callable[[TicketSnapshot, Situation], Answer]] = {
    "assess": _assess,
    "review": _review,
    "route": _route,
    "changes": _changes,
    "clock": _clock,
    "callback": _callback,
    "closing": _closing,
    "batch": _batch,
    "appeal": _appeal,
    "limits": _limits,
}


@pytest.mark.parametrize("case", FILE["cases"], ids=lambda case: case["id"])
def test_case_is_decided_as_expected(case: Situation) -> None:
    answer = STAGES[case["stage"]](ticket(**case.get("given", {})), case.get("with", {}))
    for name, expected in case["expect"].items():
        got = answer[name]
        if name == "rules":
            assert set(expected) <= got, case["about"]
        elif isinstance(got, datetime):
            assert got == at(expected), case["about"]
        else:
            assert got == expected, (name, case["about"])


def test_case_ids_are_unique_and_every_case_expects_something() -> None:
    ids = [case["id"] for case in FILE["cases"]]
    assert len(ids) == len(set(ids))
    assert all(case["expect"] and case["about"] for case in FILE["cases"])


def test_every_case_of_the_catalogue_is_decided_or_has_a_reason() -> None:
    catalogue = {f"AC-{n:02}" for n in (2, 3, 4, 6, 7, 10, 11, 13, 14, 15, 16, 18, 19, 20, 21, *range(23, 31))}
    catalogue |= {f"BC-{n:02}" for n in (1, 2, 3, 4, 5, 7, 8, 10, 11, 13, 15, 16, 17, 19)}
    decided = {"-".join(case["id"].split("-")[:2]) for case in FILE["cases"]}
    assert catalogue <= decided | set(FILE["not_decided"])
    assert not decided & set(FILE["not_decided"])

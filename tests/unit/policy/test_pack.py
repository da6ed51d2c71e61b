"""The pack as data: ids unique, every rule reachable, every code used, every pattern harmless."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from shared.policy import assess, load_pack_file, return_reason, route
from shared.policy.conditions import When
from shared.policy.reading import PACKS
from tests.unit.policy.tickets import PACK, pack, ticket

FAULT = {"category": "network.data_card.unusable", "place": {"city": "dongying"}}

# A ticket (and the rest of the situation) for every routing rule.
REACHING: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "RTE-03": ({"channel": "points_base"}, {}),
    "RTE-04": (
        {"channel": "group_hotline", "category": "service.hotline_attitude", "flags": ("hotline_unreachable",)},
        {},
    ),
    "RTE-05": ({"channel": "group_network", "category": "marketing.campaign"}, {}),
    "RTE-06": ({"category": "charges.balance_reversal", "elements": {"reversal_operator_city": "weifang"}}, {}),
    "RTE-09": (FAULT, {"network": "faulty", "previous_branch": "dongying"}),
    "RTE-10": (FAULT, {"network": "normal", "previous_branch": "dongying"}),
    "RTE-10-HOME": (FAULT, {"network": "normal", "previous_branch": "jinan"}),
    "RTE-18": (FAULT, {"returned_by": "dongying", "return_reason": "RT_NOT_OURS"}),
    "RTE-08": (FAULT, {}),
    "RTE-07": ({**FAULT, "elements": {"location": "x"}}, {}),
    "RTE-07-NETWORK": ({"category": "network.coverage.indoor", "place": {"city": "heze", "address": "x"}}, {}),
    "RTE-11": ({"category": "support.recharge.wrong_number"}, {}),
    "RTE-12": ({"category": "support.sim_replacement.cross_region"}, {}),
    "RTE-13": ({"category": "network.data_card.other", "elements": {"card_city": "yantai"}}, {}),
    "RTE-15": ({"category": "network.td.signal", "place": {"city": "rizhao", "address": "x"}}, {}),
    "RTE-17": ({"category": "service.agent_attitude"}, {}),
    "RTE-19": ({}, {}),
    "RTE-14": (
        {
            "category": "network.data_card.other",
            "contact": {"number_prefix": "147"},
            "elements": {"card_generation": "3g"},
        },
        {},
    ),
    "RTE-16": ({"category": "security.harassing_call.other", "flags": ("caller_other_province_own_network",)}, {}),
    "OUTSIDE": ({"customer": {"home_city": "other_province"}}, {}),
}


@pytest.mark.parametrize("rule", REACHING)
def test_every_routing_rule_is_reachable(rule: str) -> None:
    given_ticket, situation = REACHING[rule]
    found = route(pack(), assess(pack(), ticket(**given_ticket)), **situation)
    assert rule in found.basis.rules
    assert found.branch in pack().branch_by_id


def test_the_table_above_names_every_routing_rule() -> None:
    routing = pack().routing
    assert set(REACHING) == {rule.id for rule in (*routing.rules, *routing.types)} | {routing.outside.id}


def test_rule_ids_are_unique_within_each_table() -> None:
    for table in (pack().kind_rules, pack().class_rules, pack().urgency_rules, pack().checks, pack().routing.rules):
        ids = [rule.id for rule in table]
        assert len(ids) == len(set(ids))
    promises = [rule.id for rule in (*pack().limits.resolution, pack().limits.fallback, pack().limits.first_reply)]
    assert len(promises) == len(set(promises))
    clocks = [clock.id for clock in pack().clocks]
    assert len(clocks) == len(set(clocks))


def _conditions(part: object) -> Iterator[When]:
    if isinstance(part, When):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from _conditions(each)
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from _conditions(getattr(part, name))


def _used(fact: str) -> set[object]:
    return {value for when in _conditions(pack()) for used, value, _ in when.uses if used == fact}


def test_every_code_of_the_lists_is_used_by_a_rule() -> None:
    assert set(pack().flag_by_id) == _used("flags")
    assert set(pack().mark_by_id) == _used("event.marks")
    added = {rule.add for rule in pack().class_rules}
    by_sla = {pack().detection.batch.adds, pack().detection.repeat.adds, pack().detection.appeal.adds}
    assert set(pack().class_by_code) == added | by_sla
    assert {notice.id for notice in pack().notices} == {rule.notice for rule in pack().closing.rules if rule.notice}
    routing = pack().routing
    units = (
        {rule.unit for rule in routing.rules}
        | {c.unit for c in pack().category_by_code.values()}
        | {routing.outside.unit}
    )
    assert set(pack().unit_by_id) <= units | {"network_department"}
    required = {code for category in pack().category_by_code.values() for code in category.elements}
    in_rules = {code for code in pack().element_by_code if _used(f"element.{code}")}
    targets = {target.removeprefix("element.") for rule in routing.rules for target in rule.branch}
    assert set(pack().element_by_code) == required | in_rules | (targets & set(pack().element_by_code))
    assert {level.code for level in pack().urgency_levels} == {rule.level for rule in pack().urgency_rules}
    assert {clock.ladder for clock in pack().clocks if clock.ladder} == set(pack().ladder_by_id)


def test_return_reasons_are_those_of_the_catalogue() -> None:
    codes = (
        "ELEMENTS_INCOMPLETE NOT_TO_SUBMIT OTHER CONTACT_INVALID DUPLICATE SERIAL_MISMATCH NOT_OURS "
        "NOT_RESPONSIBLE_UNIT DATA_PROBLEM"
    )
    assert set(pack().reason_by_code) == {f"RT_{code}" for code in codes.split()}
    for code in pack().reason_by_code:
        found = return_reason(pack(), code)
        assert found is not None
        assert found.label.zh
    assert return_reason(pack(), "RT_NONE") is None


NASTY = [
    "号" * 4000,
    "1" * 4000,
    "没" * 4000,
    "县城路" * 1300,
    "从一" * 2000,
    "A((" * 1300,
    "充值卡" * 1300,
    "1*" * 2000,
    " " * 4000,
]


def _patterns() -> Iterator[str]:
    for element in pack().elements:
        yield from (*element.given_in_text, *element.cannot_be_given)
    for check_rule in pack().checks:
        yield from _matches(check_rule.when.raw)


def _matches(raw: object) -> Iterator[str]:
    if isinstance(raw, dict):
        if isinstance(raw.get("matches"), str):
            yield raw["matches"]
        for value in raw.values():
            yield from _matches(value)
    elif isinstance(raw, list):
        for value in raw:
            yield from _matches(value)


@pytest.mark.parametrize("pattern", sorted(set(_patterns())))
def test_no_pattern_is_slow_on_any_text(pattern: str) -> None:
    search = re.compile(pattern).search
    began = time.perf_counter()
    for text in NASTY:
        search(text)
    assert time.perf_counter() - began < 0.25


def test_a_pack_survives_the_round_trip_through_a_file() -> None:
    again = load_pack_file(PACKS / PACK / "pack.yaml")
    assert again.version == pack().version
    assert list(again.rule_ids()) == list(pack().rule_ids())

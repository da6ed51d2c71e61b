"""A rule table that is cut down for the tickets that are alike finds what asking every rule finds."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from shared.contracts.ticket import ClassMark
from shared.policy import facts_of
from shared.policy.facts import TicketFacts
from shared.policy.tables import FOLLOWING, KEPT, Rule, RuleTable
from tests.unit.policy.tickets import pack, ticket

TICKETS = 1_500
TABLES: dict[str, Sequence[Rule]] = {
    "kinds": pack().kind_rules,
    "classes": pack().class_rules,
    "urgency": pack().urgency_rules,
    "checks": pack().checks,
    "routes": pack().routing.rules,
    "types": pack().routing.types,
    "limits": pack().limits.resolution,
}
TEXTS = (
    "客户要求处理。",
    "外省号码电话骚扰",
    "跨区补卡不成功",
    "充值卡充错了号码",
    "话费被回退",
    "位置在泉城路，三天前开始",
)


def some_facts(seed: int) -> TicketFacts:
    """A ticket as it may come, in some situation; the same for the same seed."""
    chance = random.Random(seed)
    used = pack()
    # Few of each, so that many tickets share a cut.
    categories = sorted(used.category_by_code)
    near = categories[:: max(1, len(categories) // 60)]
    cities = [*used.branch_by_id, *used.region_ids]
    codes = sorted(used.class_by_code)
    given: dict[str, Any] = {
        "channel": chance.choice(sorted(used.channel_by_id)),
        "kind": chance.choice(sorted(used.kind_by_id)),
        "category": chance.choice([*near, "not.in_this_pack"]),
        "customer": {
            "tier": chance.choice([*used.tier_by_id, "unknown"]),
            "home_city": chance.choice(cities),
            "group_rating": chance.choice([None, *used.group_ratings_a]),
        },
        "contact": {
            "differs": chance.random() < 0.3,
            "other_in_text": chance.random() < 0.3,
            "number_prefix": chance.choice(["147", "138", ""]),
        },
        "place": chance.choice([None, {"city": chance.choice(cities)}]),
        "flags": tuple(chance.sample(sorted(used.flag_by_id), chance.choice([0, 0, 1, 2]))),
        "classes": tuple(ClassMark(code=code, rule="X") for code in chance.sample(codes, chance.choice([0, 0, 1, 2]))),
        "content": chance.choice(TEXTS),
        "open_duplicate": chance.choice([None, None, "T1"]),
        "amount": chance.choice([None, 12, 900]),
    }
    situation: dict[str, object] = {"round": chance.choice([1, 2])}
    if chance.random() < 0.3:
        situation |= {"network": chance.choice(["normal", "faulty"]), "previous_branch": chance.choice(cities)}
    if chance.random() < 0.3:
        reason = chance.choice(sorted(used.reason_by_code))
        situation |= {"returned_by": chance.choice(cities), "return_reason": reason}
    if chance.random() < 0.2:
        situation["kind"] = chance.choice(sorted(used.kind_by_id))
    return facts_of(used, ticket(**given), **situation)


@pytest.mark.parametrize("name", TABLES)
def test_the_cut_table_finds_what_the_whole_one_finds(name: str) -> None:
    rules = TABLES[name]
    table: RuleTable[Any] = RuleTable(rules)
    found = 0
    for seed in range(TICKETS):
        expected = [rule for rule in rules if rule.when(some_facts(seed))]
        assert list(table.holding(some_facts(seed))) == expected, seed
        assert table.first(some_facts(seed)) is next(iter(expected), None), seed
        found += len(expected)
    assert found


def test_what_follows_from_the_key_follows_from_it_alone() -> None:
    """Two tickets with the same key may differ in anything else."""
    known: dict[tuple[object, ...], list[object]] = {}
    for seed in range(TICKETS):
        facts = some_facts(seed)
        key = (facts["channel"], facts["kind"], facts["category"], facts["tier"])
        values = [facts[name] for name in sorted(FOLLOWING)]
        assert known.setdefault(key, values) == values, seed


def test_a_table_keeps_a_bounded_number_of_cuts() -> None:
    table = RuleTable(pack().urgency_rules)
    for number in range(KEPT + 10):
        assert table.first(facts_of(pack(), ticket(category=f"unknown.{number}"))) is not None
    assert len(table._cuts) <= KEPT

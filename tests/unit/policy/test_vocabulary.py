"""What the pack knows: cities under all their names, and a precise answer for what it does not know."""

from typing import Any

import pytest

from shared.contracts.ticket import Place
from shared.policy import Unknown, known, resolve_city, resolve_place
from tests.unit.policy.tickets import pack

GOOD: dict[str, Any] = {
    "channel": "hotline_10086",
    "kind": "complaint",
    "category": "network.coverage.indoor",
    "home_city": "济南市",
    "place_city": None,
    "tier": "gold",
    "brand": "gotone",
    "flags": ["major"],
    "elements": {"location": "泉城路1号", "since": None, "card_generation": "3G", "card_city": "青岛"},
}


@pytest.mark.parametrize(
    ("text", "city"),
    [
        ("jinan", "jinan"),
        ("Jinan", "jinan"),
        ("济南", "jinan"),
        (" 济南市 ", "jinan"),
        ("370100", "jinan"),
        ("370102", "jinan"),
        ("Tai'an", "taian"),
        ("taian", "taian"),
        ("客服二中心", "csc2"),
        ("外省", "other_province"),
        ("昆明", None),
        ("530100", None),
        ("", None),
        (None, None),
    ],
)
def test_a_city_has_many_names(text: str | None, city: str | None) -> None:
    assert resolve_city(pack(), text) == city


def test_every_branch_is_found_by_its_id_and_names() -> None:
    for branch in pack().branches:
        for text in (branch.id, branch.name.zh, branch.name.en, branch.adcode or branch.id):
            assert resolve_city(pack(), text) == branch.id


def test_a_district_belongs_to_one_branch_only() -> None:
    districts = [district for branch in pack().branches for district in branch.districts]
    assert len(districts) == len(set(districts))
    assert "市中区" not in districts


@pytest.mark.parametrize(
    ("place", "city"),
    [
        (None, None),
        ({"city": "青岛市"}, "qingdao"),
        ({"district": "广饶县"}, "dongying"),
        ({"district": "市中区"}, None),
        ({"address": "山东省潍坊市奎文区东风街"}, "weifang"),
        ({"address": "寿光市某村"}, "weifang"),
        ({"address": "某小区3号楼"}, None),
        ({"city": "昆明", "district": "广饶县"}, None),
        ({"city": "other_province"}, None),
    ],
)
def test_a_place_may_be_named_by_its_district_or_address(place: dict[str, str] | None, city: str | None) -> None:
    assert resolve_place(pack(), None if place is None else Place.model_validate(place)) == city


def test_everything_known_gives_nothing() -> None:
    assert known(pack(), **GOOD) == []


@pytest.mark.parametrize(
    ("change", "field", "value", "expects"),
    [
        ({"channel": "telegram"}, "channel", "telegram", "hotline_10086"),
        ({"kind": "praise"}, "kind", "praise", "complaint"),
        ({"category": "network.coverage.moon"}, "category", "network.coverage.moon", "network.coverage.indoor"),
        ({"home_city": "昆明"}, "customer.home_city", "昆明", "jinan"),
        ({"place_city": "Atlantis"}, "place.city", "Atlantis", "qingdao"),
        ({"tier": "platinum"}, "customer.tier", "platinum", "diamond"),
        ({"brand": "x"}, "customer.brand", "x", "gotone"),
        ({"flags": ["angry"]}, "flags", "angry", "major"),
        ({"elements": {"colour": "red"}}, "elements", "colour", "location"),
        ({"elements": {"card_generation": "5g"}}, "elements.card_generation", "5g", "3g"),
        ({"elements": {"card_city": "昆明"}}, "elements.card_city", "昆明", "jinan"),
    ],
)
def test_what_is_unknown_is_named_with_what_was_expected(
    change: dict[str, Any], field: str, value: str, expects: str
) -> None:
    found = known(pack(), **{**GOOD, **change})
    assert [(each.field, each.value) for each in found] == [(field, value)]
    assert expects in found[0].expected
    assert isinstance(found[0], Unknown)

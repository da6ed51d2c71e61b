"""Each type has one example, which its model reads and writes again unchanged, and which the pack knows."""

import json
import re
from typing import Any

import pytest

from shared.contracts.asyncapi import EXAMPLES, examples
from shared.contracts.registry import MODELS
from shared.contracts.ticket import TicketSnapshot
from shared.policy import known, load_pack, return_reason
from shared.privacy import mask

ALL: dict[str, Any] = examples()


def test_every_type_has_an_example_and_every_example_a_type() -> None:
    assert set(ALL) == set(MODELS)


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_example_survives_its_model(name: str) -> None:
    event = MODELS[name].model_validate(ALL[name])
    assert json.loads(event.model_dump_json(exclude_none=True)) == ALL[name]


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_example_holds_no_personal_data(name: str) -> None:
    text = (EXAMPLES / f"{name}.json").read_text(encoding="utf-8")
    # Ids and times are long rows of digits that are nobody's.
    bare = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[0-9:.]+Z|T\d{8}-\d{7}", "", text)
    bare = re.sub(r'"(key|external_id)": "[^"]*"', "", bare)
    assert mask(bare) == bare


def _values(value: object, name: str) -> set[str]:
    if isinstance(value, dict):
        own = {found for key, found in value.items() if key == name and isinstance(found, str)}
        return own.union(*(_values(part, name) for part in value.values()))
    if isinstance(value, list):
        return set[str]().union(*(_values(part, name) for part in value))
    return set()


def test_the_examples_speak_of_things_that_the_pack_knows() -> None:
    pack = load_pack("mobile_operator")
    tickets = [TicketSnapshot.model_validate(data["ticket"]) for data in ALL.values() if "ticket" in data]
    assert tickets
    for ticket in tickets:
        unknown = known(
            pack,
            channel=ticket.channel,
            kind=ticket.kind,
            category=ticket.category,
            home_city=ticket.customer.home_city,
            place_city=ticket.place.city if ticket.place else None,
            tier=ticket.customer.tier,
            brand=ticket.customer.brand,
            flags=ticket.flags,
            elements=ticket.elements,
        )
        assert list(unknown) == []
    everything = list(ALL.values())
    for branch in ("branch", "from_branch", "to_branch", "complaint_city"):
        assert _values(everything, branch) <= set(pack.branch_by_id)
    assert all(return_reason(pack, code) for code in _values(everything, "reason_code"))
    assert _values(everything, "pack") == {pack.id}


def test_the_examples_tell_the_story_of_one_ticket() -> None:
    everything = {name: data for name, data in ALL.items() if name not in ("incident.opened", "review.merged")}
    assert _values(list(everything.values()), "ticket_no") == {"T20261122-0000012"}

"""What an erasure takes out of events, and that no text which a person can write is forgotten by it."""

from typing import Any

import orjson
import pytest

from shared.contracts.asyncapi import examples
from shared.contracts.erasure import blank, without_texts
from shared.contracts.registry import COMMANDS, MODELS
from shared.messaging.erasure import scrubbed
from tests.support.snapshots import snapshot

# Texts in examples that no customer and nobody about a customer wrote.
CODES = {
    *("ticket_no", "channel", "kind", "category", "category_before", "code", "rule", "rules", "key", "tier", "brand"),
    *("home_city", "city", "group_rating", "id", "centre", "pack", "pack_version", "version", "flags", "actor"),
    *("branch", "unit", "complaint_city", "zh", "en", "contact", "order", "reply", "reason_code", "proposal"),
    *("satisfaction", "network", "outcome", "reported_outcome", "marks", "missing", "changed", "from_branch"),
    *("to_branch", "to", "notices", "cause", "due_at", "started_at", "accepted_at", "submitted_at", "occurred_at"),
    *("suspended_at", "contacted_at", "replied_at", "fired_at", "first_at", "last_at", "since", "ticket_id"),
    *("escalation_id", "incident_id", "approval_id", "amount", "topic", "requested_by"),
}
# Written by rules, from codes and figures.
BY_RULES = {"escalation.raised": {"reason"}, "order.escalated": {"reason"}, "replay.requested": {"reason"}}
OURS = sorted(set(MODELS) - COMMANDS)


def texts(value: Any, name: str = "") -> set[str]:
    """The names of the fields that hold some text."""
    if isinstance(value, dict):
        return set[str]().union(*(texts(each, key) for key, each in value.items()))
    if isinstance(value, list):
        return set[str]().union(*(texts(each, name) for each in value))
    return {name} if isinstance(value, str) and value else set()


@pytest.mark.parametrize("name", OURS)
def test_nothing_but_codes_and_times_is_left(name: str) -> None:
    event = blank(MODELS[name].model_validate(examples()[name]))
    left = texts(event.model_dump(mode="json")) - CODES - BY_RULES.get(name, set())
    assert left - {"parts", "kind", "state", "level", "category", "problem"} == set()


@pytest.mark.parametrize("name", OURS)
def test_an_erased_event_stays_an_event(name: str) -> None:
    erased = scrubbed(name, orjson.dumps(examples()[name]))
    assert scrubbed(name, erased) == erased
    MODELS[name].model_validate_json(erased)


def test_an_erased_ticket_keeps_codes_times_and_the_city() -> None:
    before = snapshot(external_id="CRM-1", call_serial="20261122101500001", amount="12.50")
    after = blank(before)
    assert after.erased
    assert (after.content, after.elements, after.external_id, after.call_serial) == ("", {}, None, None)
    assert before.place is not None
    assert after.place is not None
    assert (after.place.city, after.place.address) == (before.place.city, None)
    for name in ("ticket_no", "category", "customer", "accepted_at", "amount", "classes", "urgency"):
        assert getattr(after, name) == getattr(before, name)


def test_a_part_of_an_event_is_erased_like_the_whole() -> None:
    details = {"note": "客户说…", "branch": "jinan"}
    assert without_texts(MODELS["order.progressed"], details) == {"note": "", "branch": "jinan"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_branchs_command_loses_what_the_branch_wrote(name: str) -> None:
    """Such a command is dead: it is never applied."""
    left = texts(orjson.loads(scrubbed(name, orjson.dumps(examples()[name]))))
    assert left - CODES == set()


@pytest.mark.parametrize("payload", [b"", b"{", b"[1]", b'"text"'])
def test_what_cannot_be_read_is_dropped(payload: bytes) -> None:
    assert scrubbed("ticket.registered", payload) == b""
    assert scrubbed("unknown.type", b'{"content": "x"}') == b""


@pytest.mark.parametrize("levels", [200, 255, 300, 500, 900])
def test_what_is_nested_too_deeply_is_dropped_and_ends_nothing(levels: int) -> None:
    """orjson reads up to 1,024 levels and writes up to 254; Python's own calls end at 1,000."""
    deep = b"[" * levels + b"]" * levels
    for field in (b"ticket", b"unknown"):
        assert (scrubbed("ticket.registered", b'{"%s": %s}' % (field, deep)) == b"") == (levels > 200)

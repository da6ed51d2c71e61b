"""What the rules of a pack may know about a ticket, worked out on demand.

`facts_of` gives a mapping whose values are computed at the first look and kept, because most rules stop at the first
fact that does not fit and searching the text is what costs.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache

from shared.contracts.ticket import TicketSnapshot
from shared.policy.cities import resolve_city, resolve_place
from shared.policy.conditions import ELEMENT
from shared.policy.model import Pack

EVENT = "event."
LOCATION = "location"


class TicketFacts(dict[str, object]):
    """The facts of one ticket in one situation: a dict that fills itself. A fact nobody can know is None."""

    __slots__ = ("event", "pack", "ticket")

    def __init__(self, pack: Pack, ticket: TicketSnapshot, context: Mapping[str, object]) -> None:
        # What every table asks first (`tables.py`) is there from the start: a fact worked out costs 0.4 µs.
        super().__init__(channel=ticket.channel, kind=ticket.kind, category=ticket.category, tier=ticket.customer.tier)
        self.update(context)
        self.pack = pack
        self.ticket = ticket
        self.event: Mapping[str, object] = {}
        event = self.pop("event", None)
        if isinstance(event, Mapping):
            self.event = event

    def __missing__(self, name: str) -> object:
        compute = _COMPUTED.get(name)
        value: object = None
        if compute is not None:
            value = compute(self)
        elif name.startswith(ELEMENT):
            value = _element_value(self, name.removeprefix(ELEMENT))
        elif name.startswith(EVENT):
            value = _event_value(self.event, name.removeprefix(EVENT))
        self[name] = value
        return value


def facts_of(pack: Pack, ticket: TicketSnapshot, **context: object) -> TicketFacts:
    """The facts of a ticket. `context` adds those of the situation (`round`, `returned_by`, …) and `event`."""
    return TicketFacts(pack, ticket, context)


def _event_value(event: Mapping[str, object], name: str) -> object:
    value: object = event
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def element_city(facts: TicketFacts, code: str) -> str | None:
    """The city that an element names, as an id."""
    value = facts.ticket.elements.get(code)
    return resolve_city(facts.pack, value) if isinstance(value, str) else None


def _element_value(facts: TicketFacts, code: str) -> object:
    value = facts.ticket.elements.get(code)
    spec = facts.pack.element_by_code.get(code)
    if spec is not None and spec.is_city and isinstance(value, str):
        return resolve_city(facts.pack, value)
    return value.strip().lower() if isinstance(value, str) and spec is not None and spec.values else value


def _given(facts: TicketFacts, code: str) -> bool:
    """In its field, or (SDM-R0c) anywhere in the text. A place with an address counts as the element `location`."""
    value = facts.ticket.elements.get(code)
    if value is not None and value != "":
        return True
    place = facts.ticket.place
    if code == LOCATION and place is not None and (place.address or place.longitude is not None):
        return True
    if code == "since" and facts.ticket.occurred_at is not None:
        return True
    if code == "amount" and facts.ticket.amount is not None:
        return True
    spec = facts.pack.element_by_code.get(code)
    return spec is not None and bool(spec.found_in(facts.ticket.content))


def _unavailable(facts: TicketFacts, code: str) -> bool:
    """Asked for and not to be had: the field is null, or the text says so (SDM-C8, C10)."""
    elements = facts.ticket.elements
    if code in elements and elements[code] is None:
        return True
    spec = facts.pack.element_by_code.get(code)
    return spec is not None and bool(spec.refused_in(facts.ticket.content))


def _required(facts: TicketFacts) -> tuple[str, ...]:
    category = facts.pack.category_by_code.get(facts.ticket.category)
    return category.elements if category else ()


def _elements_given(facts: TicketFacts) -> tuple[str, ...]:
    return tuple(code for code in _required(facts) if _given(facts, code))


def _elements_unavailable(facts: TicketFacts) -> tuple[str, ...]:
    return tuple(code for code in _required(facts) if _unavailable(facts, code))


def _elements_missing(facts: TicketFacts) -> tuple[str, ...]:
    """DET-24: required, not given, not impossible to give, and it would change the handling."""
    by_code = facts.pack.element_by_code
    return tuple(
        code
        for code in _required(facts)
        if by_code[code].changes_handling and not _given(facts, code) and not _unavailable(facts, code)
    )


def _dead_contact(facts: TicketFacts) -> bool:
    suspended_at = facts.ticket.contact.suspended_at
    return suspended_at is not None and suspended_at < facts.ticket.submitted_at


def _same_city(facts: TicketFacts) -> bool | None:
    place, home = facts["place_city"], facts.ticket.customer.home_city
    return None if place is None or not home else place == home


def _call_serial(facts: TicketFacts) -> str | None:
    """Whether the call serial fits the submission (DET-27); None where the channel needs none."""
    pack, ticket = facts.pack, facts.ticket
    channel = pack.channel_by_id.get(ticket.channel)
    if channel is None or not channel.call_serial_required:
        return None
    if not ticket.call_serial:
        return "none"
    called_at = serial_time(pack, ticket.call_serial)
    if called_at is None:
        return "malformed"
    rule = pack.serial_check
    tolerance, skew = timedelta(minutes=rule.tolerance_minutes), timedelta(minutes=rule.clock_skew_minutes)
    round_ = facts["round"]
    moments = [ticket.submitted_at]
    if isinstance(round_, int) and round_ > 1:
        moments.append(ticket.accepted_at)
    return "fits" if any(-skew <= moment - called_at <= tolerance for moment in moments) else "mismatch"


def serial_time(pack: Pack, serial: str) -> datetime | None:
    """The moment a call serial names (local time), or None when it has another form."""
    if not _pattern(pack.serial_check.pattern).fullmatch(serial):
        return None
    try:
        year, month, day = int(serial[:4]), int(serial[4:6]), int(serial[6:8])
        hour, minute, second = int(serial[8:10]), int(serial[10:12]), int(serial[12:14])
        return datetime(year, month, day, hour, minute, second, tzinfo=pack.tz)
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _tier(attribute: str) -> Callable[[TicketFacts], object]:
    def flag(facts: TicketFacts) -> object:
        tier = facts.pack.tier_by_id.get(facts.ticket.customer.tier)
        return tier is not None and getattr(tier, attribute)

    return flag


def _category(attribute: str) -> Callable[[TicketFacts], object]:
    def flag(facts: TicketFacts) -> object:
        category = facts.pack.category_by_code.get(facts.ticket.category)
        return category is not None and getattr(category, attribute)

    return flag


def _category_allowed(facts: TicketFacts) -> bool:
    category = facts.pack.category_by_code.get(facts.ticket.category)
    return category is None or category.allowed_when is None or category.allowed_when(facts)


def _previous_is_home(facts: TicketFacts) -> bool:
    home = facts.ticket.customer.home_city
    return bool(home) and facts["previous_branch"] == home


def _upstream(facts: TicketFacts) -> bool:
    channel = facts.pack.channel_by_id.get(facts.ticket.channel)
    return channel is not None and channel.upstream


def _classes(facts: TicketFacts) -> tuple[str, ...]:
    return tuple(mark.code for mark in facts.ticket.classes)


def _urgent(facts: TicketFacts) -> bool:
    classes = facts["classes"]
    return isinstance(classes, tuple) and not facts.pack.urgent_classes.isdisjoint(classes)


_COMPUTED: dict[str, Callable[[TicketFacts], object]] = {
    "channel": lambda facts: facts.ticket.channel,
    "upstream": _upstream,
    "kind": lambda facts: facts.ticket.kind,
    "category": lambda facts: facts.ticket.category,
    "business_matter": _category("business_matter"),
    "international": _category("international"),
    "category_allowed": _category_allowed,
    "content": lambda facts: facts.ticket.content,
    "tier": lambda facts: facts.ticket.customer.tier,
    "vip": _tier("vip"),
    "club": _tier("club"),
    "gold_or_above": _tier("gold_or_above"),
    "brand": lambda facts: facts.ticket.customer.brand,
    "group_rating": lambda facts: facts.ticket.customer.group_rating,
    "group_rated_a": lambda facts: facts.ticket.customer.group_rating in facts.pack.group_ratings_a,
    "home_city": lambda facts: facts.ticket.customer.home_city or None,
    "home_is_branch": lambda facts: facts.ticket.customer.home_city in facts.pack.branch_by_id,
    "place_city": lambda facts: resolve_place(facts.pack, facts.ticket.place),
    "same_city": _same_city,
    "previous_is_home": _previous_is_home,
    "amount": lambda facts: facts.ticket.amount,
    "agent_centre": lambda facts: facts.ticket.agent.centre if facts.ticket.agent else None,
    "flags": lambda facts: facts.ticket.flags,
    "classes": _classes,
    "urgent": _urgent,
    "number_prefix": lambda facts: facts.ticket.contact.number_prefix or None,
    "contact_differs": lambda facts: facts.ticket.contact.differs,
    "contact_other_in_text": lambda facts: facts.ticket.contact.other_in_text,
    "contact_dead_before_submission": _dead_contact,
    "open_duplicate": lambda facts: facts.ticket.open_duplicate is not None,
    "call_serial": _call_serial,
    "exact_place": lambda facts: _given(facts, LOCATION),
    "elements_given": _elements_given,
    "elements_unavailable": _elements_unavailable,
    "elements_missing": _elements_missing,
}

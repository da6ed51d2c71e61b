"""A plain ticket for policy tests, and what they share. Local times are written with +08:00."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import cache
from typing import Any
from uuid import UUID

from shared.calendar import WorkingCalendar, package_days
from shared.contracts.ticket import (
    Agent,
    ContactFacts,
    CustomerFacts,
    Place,
    TicketRef,
    TicketSnapshot,
    Urgency,
)
from shared.policy import Pack, load_pack

PACK = "mobile_operator"
NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


def pack() -> Pack:
    return load_pack(PACK)


@cache
def calendar() -> WorkingCalendar:
    days = {day: worked for day, worked, _ in package_days(2025, 2026)}
    return WorkingCalendar(days, pack().working_hours, pack().tz, date(2026, 12, 31))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def ticket(**given: Any) -> TicketSnapshot:
    """A GoTone customer of Jinan wants something from the website; `given` overrides, customer fields one by one."""
    customer = {"key": "c1", "tier": "ordinary", "brand": "gotone", "home_city": "jinan", **given.pop("customer", {})}
    agent, duplicate = given.pop("agent", None), given.pop("open_duplicate", None)
    contact: Mapping[str, Any] = given.pop("contact", {})
    place: Mapping[str, Any] | None = given.pop("place", None)
    fields: dict[str, Any] = {
        "ticket_no": "T20261122-0000012",
        "channel": "website",
        "kind": "complaint",
        "category": "own_services.ring_back",
        "content": "客户要求处理。",
        "accepted_at": NOW,
        "submitted_at": NOW,
        **given,
    }
    return TicketSnapshot(
        customer=CustomerFacts.model_validate(customer),
        contact=ContactFacts.model_validate(contact),
        place=None if place is None else Place.model_validate(place),
        agent=None if agent is None else Agent(id="a1", centre=agent),
        open_duplicate=None if duplicate is None else TicketRef(ticket_id=UUID(int=7), ticket_no=duplicate),
        urgency=Urgency(code="ordinary", rank=3, rule="none yet"),
        pack=PACK,
        pack_version="any",
        **fields,
    )

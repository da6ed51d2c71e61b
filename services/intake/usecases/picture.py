"""The ticket as others may see it: masked, without phone or name; and the personal part that stays here, sealed."""

import re
from datetime import datetime
from typing import Any

import orjson

from services.intake.schemas import AgentIn, PlaceIn, RegisterTicket
from services.intake.usecases.desk import Desk
from shared.contracts.ticket import Agent, ContactFacts, CustomerFacts, Place, TicketRef, TicketSnapshot, Urgency
from shared.policy import Pack, resolve_city
from shared.privacy import digits_of, mask, mask_value

_BEGINS_WITH_A_MOMENT = re.compile(r"20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d")
_PHONE = re.compile(r"(?<!\d)1\d{10}(?!\d)")
UNASSESSED = Urgency(code="normal", rank=9, rule="")


def personal_json(request: RegisterTicket) -> bytes:
    """`Personal` of a request as JSON. The request was validated; by way of the model it took 5 µs instead of 1."""
    return orjson.dumps(
        {
            "phone": request.customer.phone,
            "name": request.customer.name,
            "contact_phone": request.contact_phone,
            "content": request.content,
            "address": request.place.address if request.place else None,
            "elements": request.elements,
        }
    )


def snapshot_of(
    desk: Desk, request: RegisterTicket, ticket_no: str, customer_key: str, duplicate: TicketRef | None, now: datetime
) -> TicketSnapshot:
    """The ticket as others may see it. A place is masked like the text; of the phone, three digits are left."""
    pack, customer = desk.pack, request.customer
    place = place_of(pack, request.place, customer.name)
    home = resolve_city(pack, customer.home_city) if customer.home_city else (place.city if place else None)
    return TicketSnapshot(
        ticket_no=ticket_no,
        channel=request.channel,
        external_id=mask(request.external_id, customer.name) if request.external_id else None,
        kind=request.kind,
        category=request.category,
        customer=CustomerFacts(
            key=customer_key,
            tier=customer.tier,
            brand=customer.brand,
            home_city=home or desk.own_branch,
            group_rating=mask(customer.group_rating, customer.name) if customer.group_rating else None,
        ),
        contact=contact_of(
            request.customer.phone, request.contact_phone, request.contact_suspended_at, request.content
        ),
        content=mask(request.content, customer.name),
        occurred_at=request.occurred_at,
        accepted_at=now,
        submitted_at=now,
        place=place,
        elements=masked_elements(request.elements, customer.name),
        amount=request.amount,
        agent=agent_of(request.agent, customer.name),
        call_serial=masked_serial(request.call_serial),
        flags=tuple(dict.fromkeys(request.flags)),
        urgency=UNASSESSED,
        open_duplicate=duplicate,
        pack=pack.id,
        pack_version=pack.version,
    )


def place_of(pack: Pack, place: PlaceIn | None, name: str | None) -> Place | None:
    if place is None:
        return None
    return Place(
        city=resolve_city(pack, place.city) if place.city else None,
        district=mask(place.district, name) if place.district else None,
        address=mask(place.address, name) if place.address else None,
        longitude=place.longitude,
        latitude=place.latitude,
    )


def contact_of(phone: str, contact: str | None, suspended_at: datetime | None, content: str) -> ContactFacts:
    """What may be known of the contact phone: whether it differs, is dead, and whether the text names another one."""
    digits = digits_of(phone).removeprefix("86")
    reached_at = digits if contact is None else digits_of(contact).removeprefix("86")
    return ContactFacts(
        differs=reached_at != digits,
        suspended_at=suspended_at,
        other_in_text=any(found != reached_at for found in _PHONE.findall(content)),
        number_prefix=digits[:3],
    )


def masked_elements(elements: dict[str, Any], name: str | None) -> dict[str, Any]:
    return {code: mask_value(value, name) for code, value in elements.items()}


def agent_of(agent: AgentIn | None, name: str | None) -> Agent | None:
    return Agent(id=mask(agent.id), centre=mask(agent.centre, name)) if agent else None


def masked_serial(serial: str | None) -> str | None:
    """A call serial begins with the moment of the call; whatever does not may be a phone or an identity number."""
    return serial if serial is None or _BEGINS_WITH_A_MOMENT.match(serial) else mask(serial)

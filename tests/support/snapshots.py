"""Ticket snapshots for unit tests."""

from datetime import UTC, datetime
from typing import Any

from shared.contracts.ticket import CustomerFacts, Place, TicketSnapshot, Urgency
from shared.policy import assess, load_pack

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
PACK = load_pack("mobile_operator")


def snapshot(**changes: Any) -> TicketSnapshot:
    """A complaint from Jinan that the checks approve, assessed by the first pack."""
    customer = CustomerFacts(key="c" * 32, tier="ordinary", brand="easyown", home_city="jinan")
    values: dict[str, Any] = {
        "ticket_no": "T20261123-0000001",
        "channel": "service_hall",
        "kind": "complaint",
        "category": "network.coverage.indoor",
        "customer": customer.model_copy(update=changes.pop("customer", {})),
        "content": "家里信号差",
        "accepted_at": NOW,
        "submitted_at": NOW,
        "place": Place(city="jinan", address="泉城路"),
        "elements": {"location": "泉城路", "since": "昨天"},
        "urgency": Urgency(code="ordinary", rank=9, rule=""),
        "pack": PACK.id,
        "pack_version": PACK.version,
    }
    return assess(PACK, TicketSnapshot(**(values | changes)))

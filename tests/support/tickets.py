"""Complaints for tests: valid by the first pack, each of another customer unless told otherwise."""

import itertools
from typing import Any

_numbers = itertools.count(1)


def phone() -> str:
    """A number of a range that is given to nobody in these tests twice."""
    return f"1380000{next(_numbers):04d}"


def complaint(**changes: Any) -> dict[str, Any]:
    """A complaint that the checks approve and the rules send to Jinan."""
    customer = {"phone": phone(), "tier": "ordinary", "brand": "easyown", "home_city": "jinan"}
    body: dict[str, Any] = {
        "channel": "service_hall",
        "kind": "complaint",
        "category": "network.coverage.indoor",
        "customer": customer | changes.pop("customer", {}),
        "content": "家里信号差,打电话经常断线,希望尽快处理。",
        "place": {"city": "jinan", "district": "历下区", "address": "泉城路附近"},
        "elements": {"location": "泉城路附近", "since": "三天前"},
    }
    return body | changes

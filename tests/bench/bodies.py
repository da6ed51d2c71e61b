"""Realistic complaints of about 600 bytes, each of another customer, cheap enough to make that making them costs
the load generator about a microsecond: everything but a number is prepared."""

import itertools
import json
import time
from typing import Any

from shared.policy.loader import load_pack

PACK = "mobile_operator"
CATEGORIES = (
    "network.coverage.indoor",
    "network.coverage.outdoor",
    "network.coverage.high_rise",
    "network.voice.dropped",
    "network.voice.no_connection",
    "network.data.slow",
    "network.data.no_access",
)
CONTENT = "家里信号差,打电话经常断线,希望尽快处理。已经三天了,影响工作,请派人上门检查。" * 2 + "晚上八点以后最严重。"
CITIES = tuple((branch.id, branch.districts[0]) for branch in load_pack(PACK).branches if branch.districts)
MARK = "0123456789"


class Bodies:
    """Complaints about every kind of network trouble in every city, in turn. Numbers start anew in each process, at
    the second of its start, so that no two runs on one stack share a customer."""

    def __init__(self) -> None:
        first = int(time.time()) % 1000 * 10_000_000
        self._numbers = itertools.count(first)
        self._templates = [_template(category, *city) for category in CATEGORIES for city in CITIES]

    def next(self) -> tuple[int, bytes]:
        """The next number and its complaint, as JSON."""
        number = next(self._numbers)
        parts = self._templates[number % len(self._templates)]
        return number, (b"%010d" % number).join(parts)


def complaint(category: str, city: str, district: str, number: str = MARK) -> dict[str, Any]:
    """A complaint that the rules approve and send to the city's branch; `number` has ten digits."""
    return {
        "channel": "service_hall",
        "kind": "complaint",
        "category": category,
        "customer": {
            "phone": f"1{number}",
            "name": "王晓明",
            "tier": "ordinary",
            "brand": "easyown",
            "home_city": city,
        },
        "content": CONTENT,
        "place": {"city": city, "district": district, "address": f"第{number}号楼"},
        "elements": {"location": f"第{number}号楼", "since": "三天前"},
    }


def _template(category: str, city: str, district: str) -> list[bytes]:
    text = json.dumps(complaint(category, city, district), ensure_ascii=False, separators=(",", ":"))
    return text.encode().split(MARK.encode())


class Posts:
    """Prepared POST requests to one address, with a body and an `Idempotency-Key` of their own."""

    def __init__(self, url_path: str, host: str, key: str | None, bodies: Bodies) -> None:
        self._bodies = bodies
        lines = [f"POST {url_path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
        lines += [f"Authorization: Bearer {key}"] if key else []
        self._head = "\r\n".join(lines).encode()
        self._keyed = key is not None

    def next(self) -> bytes:
        number, body = self._bodies.next()
        keyed = b"\r\nIdempotency-Key: bench-%d" % number if self._keyed else b""
        return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, keyed, len(body), body)

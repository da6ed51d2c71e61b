"""Personal data planted in every field of every request and command, and looked for everywhere outside the seal.

A name can be masked where it is known: in what comes through intake. In what staff of review and dispatch type nobody
can tell a name from another word; there phone and identity numbers are planted.
"""

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio
from prometheus_client import generate_latest

from shared.contracts.envelope import Envelope
from shared.contracts.topics import BRANCH_REPLIES, CONTROL, INTAKE
from shared.ids import new_id
from shared.messaging.events import Record
from shared.telemetry.logs import JsonLines
from tests.support.parts import Databases
from tests.support.tickets import complaint
from tests.support.whole import BUILDS, Whole, running_whole

PHONE, CONTACT, IDENTITY, NAME = "13912345678", "13887654321", "370102199003071234", "诸葛孔明"
CANARIES = (PHONE, CONTACT, IDENTITY, NAME)
SAID = f"我是{NAME},电话{PHONE},也可打{CONTACT},身份证{IDENTITY}"
NOTE = f"客户电话{PHONE}或{CONTACT},证件{IDENTITY}"

REGISTRATION: dict[str, Any] = {
    "customer": {"phone": PHONE, "name": NAME, "group_rating": NAME},
    "contact_phone": CONTACT,
    "content": SAID,
    "external_id": SAID,
    "place": {"city": "jinan", "district": SAID, "address": SAID},
    "elements": {"location": SAID, "since": int(PHONE)},
    "agent": {"id": PHONE, "centre": SAID},
    "call_serial": IDENTITY,
    "flags": ["media_risk"],
}
# Every code of a registration with a canary in its place: refused, and the refusal must not quote it.
MISUSED: list[dict[str, Any]] = [
    {"channel": PHONE},
    {"kind": PHONE},
    {"category": PHONE},
    {"customer": {"tier": PHONE}},
    {"customer": {"brand": PHONE}},
    {"customer": {"home_city": NAME}},
    {"customer": {"phone": f"{PHONE}x"}},
    {"customer": {"phone": SAID}},
    {"customer": {"name": SAID * 20}},
    {"place": {"city": SAID}},
    {"place": {"longitude": PHONE}},
    {"elements": {PHONE: "x"}},
    {"elements": {SAID: "x"}},
    {"flags": [PHONE]},
    {"agent": {"id": SAID, "centre": "x"}},
    {"amount": PHONE + "000"},
    {"occurred_at": PHONE},
    {"call_serial": SAID},
    {SAID: 1},
    {PHONE: 1},
]
REVIEW: list[tuple[str, dict[str, Any]]] = [
    ("approve", {"branch": PHONE}),
    ("return", {"reason_code": PHONE}),
    ("return", {"reason_code": "RT_OTHER", "missing": [NOTE]}),
    ("reclassify", {"category": PHONE}),
    ("reclassify", {"kind": PHONE}),
    ("reclassify", {"add_classes": [PHONE]}),
    ("merge", {"into": PHONE, "note": NOTE}),
    ("reclassify", {"add_classes": ["major"], "remove_classes": [PHONE]}),
    ("return", {"reason_code": "RT_OTHER", "missing": [PHONE], "note": NOTE}),
]
ORDER: list[tuple[str, Any]] = [
    ("accept", None),
    ("progress", {"note": NOTE, "marks": [PHONE]}),
    ("progress", {"note": NOTE}),
    ("urge", {"reason": NOTE}),
    ("return", {"reason_code": PHONE, "note": NOTE}),
    ("transfer", {"to_branch": PHONE, "reason": NOTE}),
    ("transfer", {"to_branch": "qingdao", "reason": NOTE}),
    ("reply", {"process": NOTE, "content": NOTE, "satisfaction": PHONE, "replier": NOTE, "replied_at": PHONE}),
    ("reply", {"process": NOTE, "content": NOTE, "satisfaction": "not_called", "replier": NOTE}),
    ("callback", {"outcome": "not_reached", "note": NOTE}),
    ("reopen", {"reason": NOTE}),
    ("raise", {"reason": NOTE}),
    ("close", {"outcome": "satisfied", "note": NOTE}),
]


@dataclass
class Town:
    """The services, and everything that left them."""

    whole: Whole
    logs: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    async def call(self, role: str, service: str, method: str, path: str, body: Any = None, **options: Any) -> Any:
        answer = await self.whole.call(role, service, method, path, body, **options)
        assert answer.status_code < 500, answer.text
        self.answers.append(f"{method} {path} {body}\n{answer.status_code} {dict(answer.headers)} {answer.text}")
        await self.whole.settle()
        return answer

    async def done(self, *given: Any, **options: Any) -> dict[str, Any]:
        answer = await self.call(*given, **options)
        assert answer.status_code in (200, 201), answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def found(self) -> list[str]:
        """Where a canary sits, besides the sealed text: in rows, records, logs, answers and metrics."""
        places = [
            (f"table {name}.{table}", rows) for name in BUILDS for table, rows in (await self.whole.dump(name)).items()
        ]
        places += [(f"record on {record.topic}", _text(record)) for record in self.whole.records]
        places += [("log", line) for line in self.logs]
        places += [("answer to " + answer[:60], answer.partition("\n")[2]) for answer in self.answers]
        places.append(("metrics", generate_latest().decode()))
        return [
            f"{canary} in {where}: {_around(text, canary)}"
            for where, text in places
            for canary in CANARIES
            if canary in text
        ]


def _text(record: Record) -> str:
    headers = " ".join(f"{name}={value.decode('utf-8', 'replace')}" for name, value in record.headers)
    return f"{(record.key or b'').decode()} {headers} {(record.value or b'').decode('utf-8', 'replace')}"


def _around(text: str, word: str) -> str:
    at = text.index(word)
    return text[max(0, at - 60) : at + 40]


class Keep(logging.Handler):
    """Log lines as the services write them."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonLines("test"))
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        # The tests' own client logs what it asks for.
        if record.name != "httpx":
            self._lines.append(self.format(record))


@pytest.fixture
def logs() -> Iterator[list[str]]:
    lines: list[str] = []
    handler, root = Keep(lines), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(handler)
    root.setLevel(before)


@pytest_asyncio.fixture
async def town(databases: Databases, tmp_path: Path, logs: list[str]) -> AsyncIterator[Town]:
    async with running_whole(databases, tmp_path) as whole:
        yield Town(whole, logs)


async def register(town: Town, **changes: Any) -> str:
    body = complaint(**(REGISTRATION | {"external_id": f"{SAID} {new_id()}"} | changes))
    return str((await town.done("front_line", "intake", "POST", "/v1/tickets", body))["ticket_no"])


async def test_intake_keeps_what_is_personal_under_seal(town: Town) -> None:
    no = await register(town)
    contact = await town.whole.call("callback", "intake", "GET", f"/v1/tickets/{no}/contact")
    assert contact.json()["phone"] == PHONE
    assert contact.json()["content"] == SAID
    for changes in MISUSED:
        body = complaint(customer={"phone": PHONE, "name": NAME}) | {
            name: complaint()["customer"] | value if name == "customer" else value for name, value in changes.items()
        }
        refused = await town.call("front_line", "intake", "POST", "/v1/tickets", body)
        assert refused.status_code == 422, (changes, refused.text)
    bodies = [complaint(**changes) for changes in MISUSED if not {"customer", SAID, PHONE} & changes.keys()]
    lines = b"".join(orjson.dumps(body) + b"\n" for body in [*bodies, complaint(**REGISTRATION)])
    ndjson = {"Content-Type": "application/x-ndjson"}
    path = "/v1/tickets:batch"
    imported = await town.call("front_line", "intake", "POST", path, content=lines + SAID.encode(), headers=ndjson)
    assert [orjson.loads(line)["status"] for line in imported.content.splitlines()][-2:] == [201, 400]
    broken = f'{{"content": "{SAID}'.encode()
    await town.call("front_line", "intake", "POST", "/v1/tickets", content=broken)
    asked = {"reason_code": "RT_OTHER", "missing": [PHONE], "note": NOTE}
    await town.done("reviewer", "review", "POST", f"/v1/reviews/{no}/return", asked)
    more = {
        "content": SAID,
        "contact_phone": CONTACT,
        "place": {"city": "jinan", "district": SAID, "address": SAID},
        "elements": {"location": SAID, "since": SAID},
        "call_serial": PHONE,
        "note": SAID[:256],
    }
    await town.done("front_line", "intake", "POST", f"/v1/tickets/{no}/supplement", more)
    withdrawn, answered = await register(town), await register(town)
    await town.done("front_line", "intake", "POST", f"/v1/tickets/{withdrawn}/withdraw", {"reason": SAID})
    await town.done("front_line", "intake", "POST", f"/v1/tickets/{answered}/answer", {"answer": SAID})
    await town.done("front_line", "intake", "POST", "/v1/tickets:search", {"phone": PHONE})
    await town.call("front_line", "intake", "POST", "/v1/tickets:search", {"phone": SAID})
    await town.call("supervisor", "intake", "POST", "/v1/customers:erase", {"phone": PHONE, "reason": SAID})
    for path in (
        *(f"/v1/tickets/{PHONE}", f"/v1/tickets/{NAME}/contact", f"/v1/{PHONE}", f"/v1/tickets?cursor={PHONE}"),
        *(f"/v1/tickets?category={PHONE}&branch={NAME}", f"/v1/tickets?status={PHONE}", f"/v1/tickets?limit={PHONE}"),
        *(f"/v1/tickets/{no}", f"/v1/tickets/{no}/timeline", "/v1/tickets"),
    ):
        await town.call("supervisor", "intake", "GET", path)
    assert await town.found() == []
    assert "诸***" in str(town.answers)


async def test_review_and_sla_keep_no_number(town: Town) -> None:
    numbers = [await register(town) for _ in range(3)]
    for verb, body in REVIEW:
        await town.call("supervisor", "review", "POST", f"/v1/reviews/{numbers[0]}/{verb}", body)
    await town.done("supervisor", "review", "POST", f"/v1/reviews/{numbers[1]}/approve", {"note": NOTE})
    merge = {"into": numbers[1], "note": NOTE}
    await town.done("supervisor", "review", "POST", f"/v1/reviews/{numbers[2]}/merge", merge)
    (asked,) = (await town.done("supervisor", "review", "GET", "/v1/approvals"))["items"]
    path = f"/v1/approvals/{asked['approval_id']}/decide"
    await town.done("supervisor", "review", "POST", path, {"granted": False, "opinion": NOTE})
    await town.call("supervisor", "review", "POST", "/v1/reviews:claim", {"count": PHONE})
    await town.call("supervisor", "review", "GET", f"/v1/reviews/{PHONE}")
    await town.done("supervisor", "sla", "PUT", "/v1/calendar/2026-12-05", {"working": True, "source": NOTE})
    await town.call("supervisor", "sla", "PUT", f"/v1/calendar/{PHONE}", {"working": True, "source": NOTE})
    await town.call("supervisor", "sla", "POST", f"/v1/escalations/{PHONE}/acknowledge")
    await town.call("supervisor", "sla", "GET", f"/v1/tickets/{PHONE}/clocks")
    assert await town.found() == []


async def test_dispatch_keeps_no_number_from_http(town: Town) -> None:
    no = await register(town, flags=[])
    moment = datetime.now(UTC).isoformat()
    for verb, body in ORDER:
        given = body | {"replied_at": moment} if verb == "reply" and "replied_at" not in body else body
        await town.call("supervisor", "dispatch", "POST", f"/v1/orders/{no}/{verb}", given)
    view = await town.done("supervisor", "dispatch", "GET", f"/v1/orders/{no}")
    assert view["status"] == "closed"
    await town.call("supervisor", "dispatch", "GET", f"/v1/orders/{PHONE}?branch={PHONE}")
    assert await town.found() == []


async def test_a_branchs_commands_leave_no_number_whether_they_are_obeyed_or_dead(town: Town) -> None:
    no = await register(town, flags=[])
    ticket = UUID((await town.done("supervisor", "dispatch", "GET", f"/v1/orders/{no}"))["ticket_id"])
    reply = {
        "process": NOTE,
        "content": NOTE,
        "satisfaction": "satisfied",
        "replier": NOTE,
        "replied_at": datetime.now(UTC).isoformat(),
    }
    commands: list[tuple[str, dict[str, Any]]] = [
        ("order.accept", {"actor": NOTE[:64]}),
        ("order.progress", {"note": NOTE, "marks": [PHONE]}),
        ("order.progress", {"note": int(PHONE)}),
        ("order.progress", {"note": NOTE, PHONE: NOTE}),
        ("order.progress", {"note": NOTE}),
        ("order.return", {"reason_code": PHONE, "note": NOTE}),
        ("order.transfer", {"to_branch": PHONE, "reason": NOTE}),
        ("order.reply", {"reply": reply | {"satisfaction": PHONE}}),
        ("order.reply", {"reply": reply}),
        ("order.accept", {"branch": PHONE}),
        (f"order.{PHONE}", {"note": NOTE}),
        (NAME, {"note": NOTE}),
    ]
    for kind, data in commands:
        payload = orjson.dumps({"branch": "jinan", "actor": PHONE} | data)
        await town.whole.put(command(ticket, kind, payload))
    good = command(ticket, "order.progress", orjson.dumps({"branch": "jinan", "actor": "x", "note": NOTE}))
    broken: list[Record] = [
        Record(BRANCH_REPLIES, 0, 0, PHONE.encode(), good.headers, good.value),
        Record(BRANCH_REPLIES, 0, 0, good.key, (*good.headers, (PHONE, NOTE.encode())), b"{" + NOTE.encode()),
        Record(BRANCH_REPLIES, 0, 0, None, ((NAME, SAID.encode()), ("ce_specversion", PHONE.encode())), good.value),
        Record(BRANCH_REPLIES, 0, 0, None, (), SAID.encode("utf-16")),
        Record(INTAKE, 0, 0, PHONE.encode(), good.headers, good.value),
        Record(INTAKE, 0, 0, None, (("ce_type", PHONE.encode()),), b'["' + NOTE.encode() + b'"]'),
        Record(CONTROL, 0, 0, None, (("note", NOTE.encode()),), NOTE.encode()),
    ]
    for record in broken:
        await town.whole.put(record)
    await town.whole.settle()
    dead = await town.whole.query("dispatch", "SELECT topic, error FROM dead_letters")
    assert len(dead) >= 12
    assert await town.whole.query("review", "SELECT 1 FROM dead_letters") != []
    for name in BUILDS:
        assert await town.whole.query(name, "SELECT 1 FROM dead_letters WHERE error LIKE 'unexpected%'") == []
    notes = [row for row in await town.whole.outbox("dispatch") if row.type in ("order.progressed", "order.replied")]
    assert len(notes) >= 2
    hits = [hit for hit in await town.found() if not hit.startswith(NAME)]
    assert hits == []


async def test_what_is_dead_can_still_be_obeyed_when_the_fault_was_ours(town: Town) -> None:
    """A command that came too early is kept masked, and says the same when it is taken up again."""
    ticket = new_id()
    data = {"branch": "jinan", "actor": "JN-07", "note": NOTE, "contacted_at": "2026-11-22T10:00:00+08:00"}
    original = command(ticket, "order.progress", orjson.dumps(data))
    await town.whole.put(original)
    (row,) = await town.whole.query("dispatch", "SELECT record_key, headers, payload FROM dead_letters")
    assert bytes(row.record_key) == original.key
    kept = orjson.loads(bytes(row.payload))
    assert kept == data | {"note": "客户电话139****5678或138****4321,证件**************1234"}
    assert [tuple(pair) for pair in orjson.loads(bytes(row.headers))] == [
        (name, value.decode()) for name, value in original.headers
    ]


def command(ticket: UUID, kind: str, payload: bytes) -> Record:
    envelope = Envelope(new_id(), "/gongdan/branch/jinan", kind, ticket, datetime.now(UTC))
    return Record(BRANCH_REPLIES, 0, 0, str(ticket).encode(), tuple(envelope.headers()), payload)

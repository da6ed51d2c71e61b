"""Erasure of a customer in all four services: nothing that tells of the customer is left, and nothing comes back."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest_asyncio
from sqlalchemy import text

from shared.contracts.envelope import Envelope
from shared.contracts.topics import BRANCH_REPLIES, CONTROL
from shared.ids import new_id
from shared.messaging.erasure import Scrubber
from shared.messaging.events import Record
from tests.support.parts import Databases
from tests.support.sites import refusal
from tests.support.tickets import complaint, phone
from tests.support.whole import BUILDS, Whole, running_service, running_whole

TOLD = "门前的老槐树下信号弱"
WORDS = {
    "content": f"{TOLD}一",
    "element": f"{TOLD}二",
    "district": f"{TOLD}三",
    "address": f"{TOLD}四",
    "progress": f"{TOLD}五",
    "reply": f"{TOLD}六",
    "callback": f"{TOLD}七",
    "reopen": f"{TOLD}八",
    "opinion": f"{TOLD}九",
    "withdraw": f"{TOLD}十",
}


@pytest_asyncio.fixture
async def whole(databases: Databases, tmp_path: Path) -> AsyncIterator[Whole]:
    async with running_whole(databases, tmp_path) as running:
        yield running


async def ok(answer: Any) -> dict[str, Any]:
    assert answer.status_code in (200, 201), answer.text
    body: dict[str, Any] = answer.json()
    return body


async def take(whole: Whole, number: str, **changes: Any) -> str:
    body = complaint(
        customer={"phone": number, "name": "诸葛孔明"},
        content=WORDS["content"],
        elements={"location": WORDS["element"], "since": "昨天"},
        place={"city": "jinan", "district": WORDS["district"], "address": WORDS["address"], "longitude": 117.02},
        **changes,
    )
    ticket = await ok(await whole.call("front_line", "intake", "POST", "/v1/tickets", body))
    await whole.settle()
    return str(ticket["ticket_no"])


async def closed(whole: Whole, number: str, **changes: Any) -> str:
    """A major complaint that went all the way, twice, with something said about the customer at every step."""
    no = await take(whole, number, flags=["media_risk"], **changes)
    await whole.call("reviewer", "review", "POST", f"/v1/reviews/{no}/reclassify", {"add_classes": ["major"]})
    asked = (await ok(await whole.call("reviewer", "review", "GET", "/v1/approvals")))["items"]
    mine = next(each for each in asked if each["ticket_no"] == no)
    opinion = {"granted": True, "opinion": WORDS["opinion"]}
    path = f"/v1/approvals/{mine['approval_id']}/decide"
    headers = {"Idempotency-Key": f"decide-{no}"}
    await ok(await whole.call("supervisor", "review", "POST", path, opinion, headers=headers))
    approve = {"note": WORDS["content"]}
    headers = {"Idempotency-Key": f"approve-{no}"}
    await ok(await whole.call("supervisor", "review", "POST", f"/v1/reviews/{no}/approve", approve, headers=headers))
    await whole.settle()

    async def order(verb: str, body: Any = None) -> None:
        await ok(await whole.call("supervisor", "dispatch", "POST", f"/v1/orders/{no}/{verb}", body))
        await whole.settle()

    reply = {
        "process": WORDS["reply"],
        "content": WORDS["reply"],
        "satisfaction": "not_called",
        "replier": "王工",
        "replied_at": datetime.now(UTC).isoformat(),
    }
    await order("accept")
    await order("progress", {"note": WORDS["progress"]})
    await order("reply", reply)
    await order("callback", {"outcome": "not_reached", "note": WORDS["callback"]})
    await order("reopen", {"reason": WORDS["reopen"]})
    await order("reply", reply)
    await order("close", {"outcome": "satisfied", "note": WORDS["callback"]})
    return no


async def erase(whole: Whole, number: str) -> Any:
    request = {"phone": number, "reason": f"诸葛孔明 {number} 来电要求"}
    answer = await whole.call("supervisor", "intake", "POST", "/v1/customers:erase", request)
    await whole.settle()
    return answer


async def left(whole: Whole, *words: str) -> list[str]:
    """Where the words are still found."""
    return [
        f"{word} in {name}.{table}"
        for name in whole.apps
        for table, rows in (await whole.dump(name)).items()
        for word in words
        if word in rows
    ]


async def test_a_customer_is_erased_in_every_service_and_a_replay_brings_nothing_back(
    whole: Whole, databases: Databases, tmp_path: Path
) -> None:
    number = phone()
    no = await closed(whole, number, external_id="CRM-77")
    known = " ".join(await left(whole, *WORDS.values()))
    assert [word for word in WORDS.values() if word not in known] == [WORDS["withdraw"]]
    before = await ok(await whole.call("supervisor", "intake", "GET", f"/v1/tickets/{no}"))
    assert before["customer"] == {
        "name": "诸***",
        "phone": f"138****{number[-4:]}",
        "contact_phone": f"138****{number[-4:]}",
    }

    erased = await ok(await erase(whole, number))
    assert erased["tickets"] == [no]
    assert await left(whole, TOLD, "CRM-77", "诸葛", "117.02") == []

    view = await ok(await whole.call("supervisor", "intake", "GET", f"/v1/tickets/{no}"))
    assert view["customer"] is None
    assert view["ticket"]["erased"]
    assert (view["status"], view["ticket"]["category"]) == ("closed", before["ticket"]["category"])
    assert view["version"] == before["version"] + 1
    timeline = await ok(await whole.call("supervisor", "intake", "GET", f"/v1/tickets/{no}/timeline"))
    assert timeline["entries"][-1]["type"] == "ticket.erased"
    contact = await whole.call("supervisor", "intake", "GET", f"/v1/tickets/{no}/contact")
    assert refusal(contact) == (404, "contact_erased")
    again = await whole.call("supervisor", "dispatch", "POST", f"/v1/orders/{no}/reopen", {"reason": "x"})
    assert refusal(again) == (409, "ticket_erased")

    for name in ("review", "dispatch", "sla"):
        await whole.replay(name)
    await whole.replay("intake")
    assert await left(whole, TOLD) == []
    for name in ("review", "dispatch", "sla"):
        async with running_service(databases, tmp_path, name) as fresh:
            newcomer = Whole(whole.apps | {name: fresh})
            await newcomer.replay(name)
            assert await left(newcomer, TOLD) == []
            held = await newcomer.query(name, "SELECT reason FROM parked_events UNION SELECT error FROM dead_letters")
            assert held == []
            assert (await newcomer.query(name, "SELECT count(*) FROM erased_subjects"))[0][0] == 1


async def test_versions_stay_without_holes(whole: Whole) -> None:
    number = phone()
    no = await closed(whole, number)
    await erase(whole, number)
    (row,) = await whole.query("intake", "SELECT ticket_id FROM tickets WHERE ticket_no = :no", no=no)
    for name in BUILDS:
        rows = await whole.query(
            name,
            "SELECT version FROM outbox WHERE subject = :id AND topic = :topic ORDER BY id",
            id=row.ticket_id,
            topic=f"gongdan.{name}",
        )
        versions = [each.version for each in rows]
        assert versions == list(range(1, len(versions) + 1)), name


async def test_an_open_ticket_refuses_the_erasure_and_is_named(whole: Whole) -> None:
    number = phone()
    first, second = await take(whole, number), await take(whole, number)
    refused = await erase(whole, number)
    assert refusal(refused) == (409, "tickets_open")
    assert first in refused.json()["detail"]
    assert second in refused.json()["detail"]
    assert await left(whole, WORDS["content"])
    for no in (first, second):
        request = {"reason": WORDS["withdraw"]}
        await ok(await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", request))
    await whole.settle()
    assert sorted((await ok(await erase(whole, number)))["tickets"]) == sorted([first, second])
    assert await left(whole, TOLD) == []


async def test_a_second_erasure_finds_nothing_and_is_no_error(whole: Whole) -> None:
    number = phone()
    no = await take(whole, number)
    await ok(await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", {"reason": "x"}))
    first, second = await ok(await erase(whole, number)), await ok(await erase(whole, number))
    assert (first["tickets"], second["tickets"]) == ([no], [])
    assert (await ok(await erase(whole, phone())))["tickets"] == []


async def test_an_erasure_can_be_repeated_by_its_key(whole: Whole) -> None:
    """As after the restoring of a backup from before it, when nobody has the phone any more."""
    number = phone()
    no = await take(whole, number)
    await ok(await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", {"reason": "x"}))
    (row,) = await whole.query("intake", "SELECT customer_key FROM tickets WHERE ticket_no = :no", no=no)
    request = {"customer_key": row.customer_key, "reason": "restored"}
    erased = await ok(await whole.call("supervisor", "intake", "POST", "/v1/customers:erase", request))
    assert erased == {"customer_key": row.customer_key, "tickets": [no]}
    for wrong in ({}, {"phone": number, "customer_key": row.customer_key}, {"customer_key": number}):
        answer = await whole.call("supervisor", "intake", "POST", "/v1/customers:erase", {"reason": "x"} | wrong)
        assert answer.status_code == 422, answer.text


async def test_only_a_supervisor_erases(whole: Whole) -> None:
    for role in ("front_line", "reviewer", "callback", "ops", "jinan"):
        request = {"phone": phone(), "reason": "x"}
        answer = await whole.call(role, "intake", "POST", "/v1/customers:erase", request)
        assert refusal(answer) == (403, "role_not_allowed")


async def test_an_erasure_is_written_down_without_phone_or_name(whole: Whole) -> None:
    number = phone()
    no = await take(whole, number)
    await ok(await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", {"reason": "x"}))
    await erase(whole, number)
    rows = await whole.query("intake", "SELECT * FROM audit_trail ORDER BY id")
    (asked,) = [row for row in rows if row.action == "customer.erased"]
    assert (asked.actor, json.loads(asked.details)["tickets"]) == ("supervisor:test supervisor", 1)
    assert json.loads(asked.details)["reason"] == f"诸*** 138****{number[-4:]} 来电要求"
    assert [row.action for row in rows].count("ticket.erased") == 1
    assert number not in str(rows)


async def test_the_channels_reference_of_an_erased_ticket_still_gives_the_first_answer(whole: Whole) -> None:
    number = phone()
    body = complaint(customer={"phone": number}, external_id="CRM-99")
    first = await ok(await whole.call("front_line", "intake", "POST", "/v1/tickets", body))
    no = first["ticket_no"]
    await ok(await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", {"reason": "x"}))
    await whole.settle()
    await erase(whole, number)
    again = await ok(await whole.call("front_line", "intake", "POST", "/v1/tickets", body))
    assert again == first


async def test_a_reference_that_holds_a_phone_is_not_stored_and_still_makes_retries_safe(whole: Whole) -> None:
    number = phone()
    body = complaint(customer={"phone": number}, external_id=f"call-{number}")
    answers = [await whole.call("front_line", "intake", "POST", "/v1/tickets", body) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert await left(whole, number) == []


async def test_late_events_about_an_erased_ticket_come_without_their_texts(whole: Whole) -> None:
    """Between publishers nothing is ordered: review's approval may reach sla after the erasure."""
    number = phone()
    body = complaint(customer={"phone": number}, content=WORDS["content"], flags=["media_risk"])
    ticket = await ok(await whole.call("front_line", "intake", "POST", "/v1/tickets", body))
    no = ticket["ticket_no"]
    await whole.settle()
    approve = {"note": WORDS["content"]}
    await ok(await whole.call("reviewer", "review", "POST", f"/v1/reviews/{no}/approve", approve))
    kept_back = await whole._new("review")
    assert any(TOLD in (record.value or b"").decode() for record in kept_back)
    await ok(await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", {"reason": "x"}))
    await erase(whole, number)
    for record in kept_back:
        await whole.put(record)
    await whole.settle()
    assert await left(whole, TOLD) == []
    assert await whole.query("sla", "SELECT 1 FROM dead_letters UNION ALL SELECT 1 FROM parked_events") == []


async def test_an_event_of_an_erased_ticket_that_is_not_published_yet_leaves_without_its_texts(whole: Whole) -> None:
    number = phone()
    no = await take(whole, number)
    await ok(
        await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", {"reason": WORDS["withdraw"]})
    )
    request = {"phone": number, "reason": "x"}
    await ok(await whole.call("supervisor", "intake", "POST", "/v1/customers:erase", request))
    intake = whole.apps["intake"].service
    assert await Scrubber(intake.database, intake.leases).scrub_once() == 1
    assert await Scrubber(intake.database, intake.leases).scrub_once() == 0
    assert await left(whole, WORDS["withdraw"]) == []
    await whole.settle()
    assert await left(whole, TOLD) == []


async def test_what_a_branch_sent_and_nobody_could_obey_is_erased_too(whole: Whole) -> None:
    """Under whatever key it came."""
    number = phone()
    no = await closed(whole, number)
    (row,) = await whole.query("intake", "SELECT ticket_id FROM tickets WHERE ticket_no = :no", no=no)
    data = orjson.dumps({"branch": "jinan", "actor": "x", "note": WORDS["progress"]})
    for key in (str(row.ticket_id).encode(), row.ticket_id.hex.encode(), b"jinan", None):
        envelope = Envelope(new_id(), "/gongdan/branch/jinan", "order.progress", row.ticket_id, datetime.now(UTC))
        await whole.put(Record(BRANCH_REPLIES, 0, 0, key, tuple(envelope.headers()), data))
    await whole.settle()
    assert len(await whole.query("dispatch", "SELECT 1 FROM dead_letters")) == 4
    assert "门前" in (await whole.dump("dispatch"))["dead_letters"]
    await erase(whole, number)
    assert await left(whole, TOLD) == []


async def test_nothing_of_the_customers_texts_is_in_the_outboxes_of_other_tickets(whole: Whole) -> None:
    """Another customer's ticket keeps its texts."""
    number, other = phone(), phone()
    no, kept = await take(whole, number), await take(whole, other)
    await ok(await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", {"reason": "x"}))
    await erase(whole, number)
    view = await ok(await whole.call("supervisor", "intake", "GET", f"/v1/tickets/{kept}"))
    assert view["ticket"]["content"] == WORDS["content"]
    rows = await whole.query("intake", "SELECT payload FROM outbox WHERE topic <> :control", control=CONTROL)
    assert sum(TOLD in bytes(row.payload).decode() for row in rows) == 1


async def test_what_was_kept_long_enough_is_erased_by_rule(databases: Databases, tmp_path: Path) -> None:
    async with running_whole(databases, tmp_path, personal_retention_days=30) as whole:
        old, young, still_open = await take(whole, phone()), await take(whole, phone()), await take(whole, phone())
        for no in (old, young):
            await ok(await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", {"reason": "x"}))
        async with whole.apps["intake"].service.database.transaction() as transaction:
            await transaction.connection.execute(
                text("UPDATE tickets SET closed_at = closed_at - interval '31 days' WHERE ticket_no = :no"), {"no": old}
            )
        await keep(whole)
        await whole.settle()
        for no, gone in ((old, True), (young, False), (still_open, False)):
            view = await ok(await whole.call("supervisor", "intake", "GET", f"/v1/tickets/{no}"))
            assert (view["customer"] is None, view["ticket"]["erased"]) == (gone, gone)
        trail = await whole.query("intake", "SELECT actor FROM audit_trail WHERE action = 'ticket.erased'")
        assert [row.actor for row in trail] == ["rules:retention"]
        reviews = await whole.query("review", "SELECT snapshot FROM reviews WHERE ticket_no = :no", no=old)
        assert reviews[0].snapshot["content"] == ""


async def test_with_no_retention_nothing_is_erased(databases: Databases, tmp_path: Path) -> None:
    async with running_whole(databases, tmp_path, personal_retention_days=0) as whole:
        no = await take(whole, phone())
        await ok(await whole.call("front_line", "intake", "POST", f"/v1/tickets/{no}/withdraw", {"reason": "x"}))
        async with whole.apps["intake"].service.database.transaction() as transaction:
            await transaction.connection.execute(text("UPDATE tickets SET closed_at = closed_at - interval '9 years'"))
        await keep(whole)
        view = await ok(await whole.call("supervisor", "intake", "GET", f"/v1/tickets/{no}"))
        assert view["customer"] is not None


async def keep(whole: Whole) -> None:
    """One round of intake's timed work."""
    (job,) = whole.apps["intake"].service._jobs
    await job.__self__.keep_once()  # type: ignore[attr-defined]


def test_the_words_of_these_tests_are_not_numbers() -> None:
    """Masking must not be what hides them."""
    assert not re.search(r"\d", "".join(WORDS.values()))

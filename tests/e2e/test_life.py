"""A complaint's whole life through the four running services, on each broker, with plain HTTP and Kafka clients."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from shared.contracts.topics import BRANCH_REPLIES, DISPATCH, dead_letter_topic
from tests.support.journey import finish, read_branch, register, reply_body, until, wait_for_status
from tests.support.stack import RunningStack
from tests.support.tickets import complaint, phone


def timeline(stack: RunningStack, ticket_no: str) -> list[dict[str, Any]]:
    with stack.client("front_line", "intake") as front:
        entries: list[dict[str, Any]] = front.get(f"/v1/tickets/{ticket_no}/timeline").json()["entries"]
    return entries


async def test_a_complaint_reaches_its_branch_and_is_closed(stack: RunningStack) -> None:
    number = phone()
    body = complaint(
        customer={"phone": number, "home_city": "qingdao", "name": "欧阳明月"},
        place={"city": "青岛市", "district": "市南区", "address": "香港中路"},
        content=f"欧阳明月:家里没有信号,请打{number}",
    )
    ticket = register(stack, body)
    records = await read_branch(
        stack.bootstrap, "qingdao", lambda found: any(r.key == ticket["ticket_id"].encode() for r in found)
    )
    record = next(r for r in records if r.key == ticket["ticket_id"].encode())
    headers = {name: value.decode() for name, value in record.headers}
    assert headers["ce_type"] == "order.dispatched"
    assert headers["ce_subject"] == ticket["ticket_id"]
    assert len(headers["traceparent"]) == 55
    order = json.loads(record.value)
    assert order["branch"] == "qingdao"
    assert order["basis"]["rules"]
    sheet = order["order"]
    assert sheet["ticket_no"] == ticket["ticket_no"]
    assert {limit["kind"] for limit in sheet["limits"]} == {"first_reply", "resolution"}
    assert all(datetime.fromisoformat(limit["due_at"]) > datetime.now(UTC) for limit in sheet["limits"])
    assert number not in record.value.decode()
    assert "欧阳明月" not in record.value.decode()
    wait_for_status(stack, ticket["ticket_no"], "dispatched")
    with stack.client("branch", "intake", "qingdao") as branch:
        contact = branch.get(sheet["links"]["contact"])
        assert contact.json()["phone"] == number
    with stack.client("branch", "dispatch", "jinan") as stranger:
        assert stranger.get(f"/v1/orders/{ticket['ticket_no']}").status_code == 404
        answer = stranger.post(f"/v1/orders/{ticket['ticket_no']}/accept")
        assert answer.status_code == 404
    finish(stack, ticket["ticket_no"], "qingdao")
    wait_for_status(stack, ticket["ticket_no"], "closed")
    entries = until(
        lambda: (found := timeline(stack, ticket["ticket_no"])) and found[-1]["type"] == "ticket.closed" and found
    )
    types = [entry["type"] for entry in entries if entry["service"] != "sla"]
    assert types == [
        "ticket.registered",
        "review.approved",
        "order.dispatched",
        "contact.read",
        "order.accepted",
        "order.replied",
        "callback.recorded",
        "ticket.closed",
    ]
    assert all(entry["actor"] for entry in entries)
    assert any(rule.startswith("RTE-") for rule in entries[2]["rules"])


async def test_a_branch_can_work_with_nothing_but_kafka(stack: RunningStack) -> None:
    ticket = register(stack, complaint(customer={"home_city": "zibo"}, place={"city": "zibo"}))
    subject = ticket["ticket_id"]
    await read_branch(stack.bootstrap, "zibo", lambda found: any(r.key == subject.encode() for r in found))
    producer = AIOKafkaProducer(bootstrap_servers=stack.bootstrap, acks="all")
    await producer.start()

    async def command(kind: str, data: dict[str, Any], command_id: str, branch: str = "zibo") -> None:
        headers = {
            "ce_specversion": "1.0",
            "ce_id": command_id,
            "ce_source": f"/branch/{branch}",
            "ce_type": kind,
            "ce_subject": subject,
            "ce_time": datetime.now(UTC).isoformat(),
        }
        await producer.send_and_wait(
            BRANCH_REPLIES,
            key=subject.encode(),
            value=json.dumps({"branch": branch, "actor": "值班员"} | data).encode(),
            headers=[(name, value.encode()) for name, value in headers.items()],
        )

    stranger = str(uuid4())
    await command("order.accept", {}, stranger, branch="weifang")
    accept_id = str(uuid4())
    await command("order.accept", {}, accept_id)
    await command("order.accept", {}, accept_id)
    await command("order.reply", {"reply": {"process": "x"}}, str(uuid4()))
    await command("order.reply", {"reply": reply_body("satisfied")}, str(uuid4()))
    await producer.stop()
    wait_for_status(stack, ticket["ticket_no"], "closed")
    types = [entry["type"] for entry in timeline(stack, ticket["ticket_no"])]
    assert types.count("order.accepted") == 1
    assert types.count("order.replied") == 1

    reader = AIOKafkaConsumer(
        dead_letter_topic(BRANCH_REPLIES), bootstrap_servers=stack.bootstrap, auto_offset_reset="earliest"
    )
    await reader.start()
    reasons: list[str] = []
    async with asyncio.timeout(30):
        while len(reasons) < 2:
            letter = await reader.getone()
            if letter.key == subject.encode():
                reasons.append(dict(letter.headers)["dead_error"].decode())
    await reader.stop()
    assert reasons[0].startswith("not_your_order")
    assert "/reply/content: missing" in reasons[1]


async def test_a_deficient_ticket_comes_back_is_supplemented_and_goes_on(stack: RunningStack) -> None:
    ticket = register(stack, complaint(elements={}, content="信号不好", place={"city": "jinan"}))
    wait_for_status(stack, ticket["ticket_no"], "returned")
    returned = until(
        lambda: next((e for e in timeline(stack, ticket["ticket_no"]) if e["type"] == "review.returned"), None)
    )
    assert returned["details"]["reason_code"] == "RT_ELEMENTS_INCOMPLETE"
    assert returned["details"]["missing"]
    assert returned["rules"]
    with stack.client("front_line", "intake") as front:
        answer = front.post(
            f"/v1/tickets/{ticket['ticket_no']}/supplement",
            json={
                "elements": {"location": "泉城路 1 号", "since": "昨天"},
                "place": {"city": "jinan", "address": "泉城路"},
            },
        )
    assert answer.status_code == 200, answer.text
    wait_for_status(stack, ticket["ticket_no"], "dispatched")


async def test_a_duplicate_waits_for_a_person_who_merges_it(stack: RunningStack) -> None:
    body = complaint()
    first = register(stack, body)
    second = register(stack, body)
    wait_for_status(stack, second["ticket_no"], "in_review")
    with stack.client("reviewer", "review") as reviewer:
        review = reviewer.get(f"/v1/reviews/{second['ticket_no']}").json()
        assert first["ticket_no"] in json.dumps(review["findings"])
        claimed = reviewer.post(f"/v1/reviews/{second['ticket_no']}/claim")
        assert claimed.status_code == 200
        with stack.client("supervisor", "review") as other:
            assert other.post(f"/v1/reviews/{second['ticket_no']}/approve", json={}).status_code == 409
        merged = reviewer.post(f"/v1/reviews/{second['ticket_no']}/merge", json={"into": first["ticket_no"]})
        assert merged.status_code == 200, merged.text
    wait_for_status(stack, second["ticket_no"], "merged")


async def test_a_withdrawn_ticket_is_recalled_from_its_branch(stack: RunningStack) -> None:
    ticket = register(stack, complaint(customer={"home_city": "dezhou"}, place={"city": "dezhou"}))
    wait_for_status(stack, ticket["ticket_no"], "dispatched")
    with stack.client("front_line", "intake") as front:
        assert front.post(f"/v1/tickets/{ticket['ticket_no']}/withdraw", json={"reason": "已恢复"}).status_code == 200

    def told(records: list[Any]) -> bool:
        return any(
            r.key == ticket["ticket_id"].encode() and dict(r.headers)["ce_type"] == b"order.recalled" for r in records
        )

    records = await read_branch(stack.bootstrap, "dezhou", told)
    sequences = [int(dict(r.headers)["ce_sequence"]) for r in records if r.key == ticket["ticket_id"].encode()]
    assert sequences == [1, 2]


async def test_a_returned_order_is_sent_on_by_a_reviewer(stack: RunningStack) -> None:
    ticket = register(
        stack,
        complaint(category="service.hall", customer={"home_city": "yantai"}, place={"city": "yantai"}, elements={}),
    )
    wait_for_status(stack, ticket["ticket_no"], "dispatched")
    number = ticket["ticket_no"]
    with stack.client("branch", "dispatch", "yantai") as branch:
        answer = branch.post(f"/v1/orders/{number}/return", json={"reason_code": "RT_NOT_OURS", "note": "号码属威海"})
        assert answer.status_code == 200, answer.text
    wait_for_status(stack, number, "in_review", "returned_by_branch")
    with stack.client("reviewer", "review") as reviewer:
        until(lambda: reviewer.get(f"/v1/reviews/{number}").json()["status"] == "waiting")
        assert reviewer.post(f"/v1/reviews/{number}/approve", json={"branch": "weihai"}).status_code == 200
    with stack.client("branch", "dispatch", "weihai") as branch:
        until(lambda: branch.get(f"/v1/orders/{number}").status_code == 200)


async def test_every_service_is_ready_and_describes_itself(stack: RunningStack) -> None:
    assert set(until(lambda: (s := stack.ready()) and set(s.values()) == {200} and s)) == set(stack.facts["services"])
    for service in stack.facts["services"]:
        with stack.client("ops", service) as ops:
            assert ops.get("/openapi.json").json()["info"]["title"] == f"Gongdan {service}"
            assert ops.get("/docs").status_code == 200
            assert "gongdan_events_applied_total" in ops.get("/metrics").text


@pytest.mark.parametrize("path", ["/v1/tickets", "/v1/nothing"])
async def test_errors_are_problem_documents(stack: RunningStack, path: str) -> None:
    with stack.client("front_line", "intake") as front:
        answer = front.delete(path)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] in ("method_not_allowed", "route_not_found")


async def test_internal_topics_carry_versions_without_holes(stack: RunningStack) -> None:
    ticket = register(stack, complaint(customer={"home_city": "rizhao"}, place={"city": "rizhao"}))
    wait_for_status(stack, ticket["ticket_no"], "dispatched")
    finish(stack, ticket["ticket_no"], "rizhao")
    wait_for_status(stack, ticket["ticket_no"], "closed")
    reader = AIOKafkaConsumer(DISPATCH, bootstrap_servers=stack.bootstrap, auto_offset_reset="earliest")
    await reader.start()
    versions: list[int] = []
    async with asyncio.timeout(30):
        while True:
            record = await reader.getone()
            if record.key == ticket["ticket_id"].encode():
                headers = dict(record.headers)
                versions.append(int(headers["ce_sequence"]))
                if headers["ce_type"] == b"ticket.closed":
                    break
    await reader.stop()
    assert list(dict.fromkeys(versions)) == list(range(1, len(set(versions)) + 1))

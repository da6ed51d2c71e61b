"""Personal data on a running stack: what is planted at the doors is found nowhere, an erasure reaches every service,
and the audit trail of each service is whole at the end."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from sqlalchemy import text

from shared.contracts.topics import BRANCH_REPLIES, all_topics
from shared.database.engine import Database
from tests.support.journey import register, until, wait_for_status
from tests.support.snapshots import PACK
from tests.support.stack import PROJECT, RunningStack
from tests.support.tickets import complaint
from tests.support.whole import dump

PHONE, IDENTITY, NAME, TOLD = "13912340077", "370102199003074321", "司马相如", "院里的石榴树后面没有信号"
SAID = f"我是{NAME},{TOLD},电话{PHONE},身份证{IDENTITY}"
NOTE = f"{TOLD},电话{PHONE},证件{IDENTITY}"
SERVICES = ("intake", "review", "dispatch", "sla")


async def rows_of(stack: RunningStack) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in SERVICES:
        database = Database(stack.facts["databases"][name])
        found |= {f"{name}.{table}": rows for table, rows in (await dump(database)).items()}
        await database.close()
    return found


async def records_of(stack: RunningStack) -> dict[str, str]:
    """Everything on every topic but the one that branches write."""
    topics = [topic for topic in all_topics(branch.id for branch in PACK.branches) if topic.name != BRANCH_REPLIES]
    partitions = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=stack.bootstrap, enable_auto_commit=False)
    await consumer.start()
    found: dict[str, str] = {}
    try:
        ends = await consumer.end_offsets(partitions)
        waiting = [partition for partition in partitions if ends[partition] > 0]
        consumer.assign(waiting)
        await consumer.seek_to_beginning(*waiting)
        while waiting:
            for partition, records in (await consumer.getmany(*waiting, timeout_ms=500)).items():
                shown = [f"{record.key!r} {record.headers} {(record.value or b'').decode()}" for record in records]
                found[partition.topic] = found.get(partition.topic, "") + "\n".join(shown)
            waiting = [each for each in waiting if ends[each] > await consumer.position(each)]
    finally:
        await consumer.stop()
    return found


def logs_of(stack: RunningStack) -> dict[str, str]:
    return {path.name: path.read_text(errors="replace") for path in stack.data.rglob("*.log")} | {"runner": stack.said}


def metrics_of(stack: RunningStack) -> dict[str, str]:
    shown = {}
    for name in SERVICES:
        with stack.client("ops", name) as reader:
            shown[f"metrics of {name}"] = reader.get("/metrics").text
    return shown


def hits(places: dict[str, str], *words: str) -> list[str]:
    return [f"{word} in {place}" for place, found in places.items() for word in words if word in found]


def went_through(stack: RunningStack, no: str, verb: str, body: Any) -> bool:
    with stack.client("supervisor", "dispatch") as client:
        return client.post(f"/v1/orders/{no}/{verb}", json=body).status_code == 200


async def closed(stack: RunningStack) -> dict[str, Any]:
    """A ticket whose every step speaks of the customer."""
    body = complaint(
        customer={"phone": PHONE, "name": NAME},
        content=SAID,
        elements={"location": SAID, "since": SAID},
        place={"city": "jinan", "district": SAID, "address": SAID},
    )
    ticket = register(stack, body)
    no = ticket["ticket_no"]
    wait_for_status(stack, no, "dispatched")
    reply = {"process": NOTE, "content": NOTE, "satisfaction": "not_called", "replier": "王工"}
    for verb, given in (
        ("accept", None),
        ("progress", {"note": NOTE}),
        ("reply", reply | {"replied_at": datetime.now(UTC).isoformat()}),
        ("callback", {"outcome": "not_reached", "note": NOTE}),
        ("close", {"outcome": "satisfied", "note": NOTE}),
    ):
        until(partial(went_through, stack, no, verb, given))
    wait_for_status(stack, no, "closed")
    return ticket


async def send_garbage(stack: RunningStack, ticket_id: str) -> None:
    """What a branch, or somebody who got its rights, may put on its topic."""
    producer = AIOKafkaProducer(bootstrap_servers=stack.bootstrap)
    await producer.start()
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(uuid4()).encode()),
        ("ce_source", b"/gongdan/branch/jinan"),
        ("ce_type", b"order.progress"),
        ("ce_subject", ticket_id.encode()),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
    ]
    command = json.dumps({"branch": "jinan", "actor": PHONE, "note": NOTE}, ensure_ascii=False).encode()
    await producer.send_and_wait(BRANCH_REPLIES, command, key=UUID(ticket_id).hex.encode(), headers=headers)
    nobodys = f"{PHONE} {IDENTITY}".encode()
    await producer.send_and_wait(BRANCH_REPLIES, nobodys, key=PHONE.encode(), headers=[(PHONE, nobodys)])
    await producer.stop()


@pytest.mark.timeout(400)
async def test_what_is_personal_stays_under_seal_and_an_erasure_reaches_everything(stack: RunningStack) -> None:
    ticket = await closed(stack)
    await send_garbage(stack, ticket["ticket_id"])
    with stack.client("front_line", "intake") as front:
        refused = front.post("/v1/tickets", json=complaint(category=PHONE, customer={"phone": PHONE, "name": NAME}))
        searched = front.post("/v1/tickets:search", json={"phone": PHONE})
    assert (refused.status_code, searched.status_code) == (422, 200)
    assert hits({"refusal": refused.text, "search": searched.text}, PHONE, IDENTITY, NAME) == []

    async def dead() -> bool:
        return "not a CloudEvent" in (await rows_of(stack))["dispatch.dead_letters"]

    for _ in range(100):
        if await dead():
            break
    assert await dead()
    everywhere = await rows_of(stack) | await records_of(stack) | logs_of(stack) | metrics_of(stack)
    assert {"intake.audit_trail", "dispatch.dead_letters", "intake.log", "gongdan.dispatch.jinan"} <= everywhere.keys()
    assert hits(everywhere, PHONE, IDENTITY, NAME) == []
    assert hits(everywhere, TOLD) != []

    with stack.client("supervisor", "intake") as supervisor:
        erased = supervisor.post("/v1/customers:erase", json={"phone": PHONE, "reason": "客户要求"})
    assert erased.json()["tickets"] == [ticket["ticket_no"]]
    for _ in range(200):
        left = hits(await rows_of(stack), TOLD)
        if not left:
            break
    assert left == []
    with stack.client("ops", "intake") as ops:
        assert ops.post("/v1/ops/replay", json={"reason": "after an erasure"}).json()["marked"] > 0
    until(lambda: all(backlog(stack, name) == 0 for name in SERVICES))
    assert hits(await rows_of(stack), TOLD) == []


def backlog(stack: RunningStack, name: str) -> int:
    with stack.client("ops", name) as ops:
        metrics = ops.get("/metrics").text
    line = next(line for line in metrics.splitlines() if line.startswith("gongdan_outbox_backlog "))
    return int(float(line.split()[1]))


@pytest.mark.parametrize("name", SERVICES)
async def test_the_audit_trail_of_each_service_is_whole_and_names_a_deleted_row(stack: RunningStack, name: str) -> None:
    def audit() -> tuple[int, dict[str, Any]]:
        environment = os.environ | {
            f"{name.upper()}_DATABASE_URL": stack.facts["databases"][name],
            f"{name.upper()}_KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap,
            f"{name.upper()}_KEYS_FILE": "keys.json",
            "INTAKE_DATA_KEY": "unused",
            "INTAKE_INDEX_KEY": "unused",
        }
        command = [sys.executable, "-m", f"services.{name}", "audit"]
        done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    _, report = until(lambda: (found := audit())[1]["unsealed"] == 0 and found)
    assert (report["intact"], report["faults"]) == (True, [])
    assert report["rows"] > 0
    database = Database(stack.facts["databases"][name])
    async with database.transaction() as owner:
        connection = owner.connection
        await connection.execute(text("ALTER TABLE audit_trail DISABLE TRIGGER USER"))
        gone = (
            await connection.execute(
                text("DELETE FROM audit_trail WHERE id = (SELECT min(id) FROM audit_trail) RETURNING id")
            )
        ).scalar_one()
        await connection.execute(text("ALTER TABLE audit_trail ENABLE TRIGGER USER"))
    await database.close()
    code, report = audit()
    assert code == 1
    assert [(fault["kind"], fault["row"]) for fault in report["faults"]] == [("row_deleted", gone)]

"""The people around the platform, as plain HTTP and Kafka clients: front line, branches, callback staff."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts.topics import branch_topic
from tests.support.stack import RunningStack

PATIENCE_SECONDS = 60.0


def until(what: Callable[[], Any], seconds: float = PATIENCE_SECONDS, pause: float = 0.1) -> Any:
    """The first truthy answer; an HTTP client that finds nobody there tries again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = what()
        except httpx.TransportError:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(pause)


def register(stack: RunningStack, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    with stack.client("front_line", "intake") as front:
        answer = front.post("/v1/tickets", json=body, headers={"Idempotency-Key": key} if key else {})
    assert answer.status_code == 201, answer.text
    ticket: dict[str, Any] = answer.json()
    return ticket


def status(stack: RunningStack, ticket_no: str) -> str:
    with stack.client("supervisor", "intake") as reader:
        return str(reader.get(f"/v1/tickets/{ticket_no}").json()["status"])


def wait_for_status(stack: RunningStack, ticket_no: str, *wanted: str) -> str:
    return str(until(lambda: (now := status(stack, ticket_no)) in wanted and now))


def reply_body(satisfaction: str = "not_called") -> dict[str, Any]:
    """The five elements of GDM-T8."""
    return {
        "process": "已上门检测并调整天线",
        "content": "信号已恢复正常",
        "satisfaction": satisfaction,
        "replier": "王工",
        "replied_at": datetime.now(UTC).isoformat(),
    }


def finish(stack: RunningStack, ticket_no: str, branch: str) -> None:
    """Accept, reply and call back, so that the ticket ends; each step is repeated until it went through once."""
    steps = [
        ("accept", None, "branch", branch),
        ("reply", reply_body(), "branch", branch),
        ("callback", {"outcome": "satisfied"}, "callback", None),
    ]
    for verb, body, role, scope in steps:
        headers = {"Idempotency-Key": f"{ticket_no}-{verb}"}

        def send(
            verb: str = verb,
            body: Any = body,
            role: str = role,
            scope: str | None = scope,
            headers: dict[str, str] = headers,
        ) -> bool:
            with stack.client(role, "dispatch", scope) as client:
                answer = client.post(f"/v1/orders/{ticket_no}/{verb}", json=body, headers=headers)
            assert answer.status_code < 300 or answer.status_code >= 500 or answer.status_code == 404, answer.text
            return answer.status_code < 300

        until(send)


async def read_branch(bootstrap: str, branch: str, enough: Callable[[list[Any]], bool]) -> list[Any]:
    """All records of a branch's topic, from its beginning, until there are enough."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    records: list[Any] = []
    try:
        partition = TopicPartition(branch_topic(branch), 0)
        consumer.assign([partition])
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not enough(records):
                records += (await consumer.getmany(partition, timeout_ms=500)).get(partition, [])
    finally:
        await consumer.stop()
    return records
